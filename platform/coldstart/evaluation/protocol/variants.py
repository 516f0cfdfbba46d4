"""Variants: the models and item tables with which the same rows are scored.

This module has names and ground truth only, so that computing metrics imports no model.
"""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe.method import RELEASE, SETTINGS, VariantInfo

BASELINE = "oov"
OWN_ID = "id"
SIMILARITY = "content_similarity"
VARIANTS: Mapping[str, VariantInfo] = {
    BASELINE: VariantInfo("the ranker's out-of-vocabulary row for every item", "#8b95a1", ()),
    OWN_ID: VariantInfo("the production ranker: trained ID rows, and the OOV row for cold items", "#4a7bd0"),
    "text_similarity": VariantInfo(
        "id, and the similarity of TF-IDF text vectors to what the user clicked and skipped before", "#86a873", ()
    ),
    SIMILARITY: VariantInfo(
        "id, and the similarity of the encoder's vectors to what the user clicked and skipped before",
        "#3f8f4f",
        ("text_similarity",),
    ),
    **{name: info for settings in SETTINGS.values() for name, info in settings.variants.items()},
    RELEASE: VariantInfo("what is served: the method's scorer with the method's item table", "#a45cb8", (OWN_ID,)),
    "trained_oracle": VariantInfo(
        "ID row of a ranker that was trained with the held-out items' events (item_holdout only)", "#5f6975", ()
    ),
    "content_oracle": VariantInfo("true click probability given the content (generated data only)", "#7d8793", ()),
    "oracle": VariantInfo("true click probability (generated data only)", "#aab2bc", ()),
}
"""All variants of all methods, in the order of tables and charts."""
GROUND_TRUTH = ("content_oracle", "oracle")
"""Variants that do not read past labels."""
ORACLES = ("trained_oracle", *GROUND_TRUTH)
UPPER_BOUNDS = ("content_oracle", "trained_oracle")
"""Upper bounds of what a proxy can reach, the preferred one first."""
CHAMPION, CHALLENGER = "champion", "challenger"
"""In a comparison of releases, the served scores of these two take the place of variants."""
OOV_SUFFIX = "_oov"
"""A variant with its own ranker also has the scores of that ranker with unknown targets, under its name and this."""


def compared_variants(available: Collection[str], headline: str) -> dict[str, tuple[str, ...]]:
    """Variant -> variants that are compared with it. Each list is one family of tests per slice and metric.

    Args:
        available: Variants that have scores.
        headline: Always compared with `oov` and with content similarity, which no method may lose to unseen.
    """
    present = [name for name in VARIANTS if name in available]

    def against(base: str) -> tuple[str, ...]:
        return tuple(
            name
            for name in present
            if base in VARIANTS[name].compared_with or (name == headline and base in (BASELINE, SIMILARITY))
        )

    return {base: compared for base in present if (compared := against(base))}


def oov_scores(variant: str, available: Collection[str]) -> str:
    """Name of the scores that `variant` is compared with on rows with unknown targets."""
    return variant + OOV_SUFFIX if variant + OOV_SUFFIX in available else BASELINE


def leave_one_out_item_mean(logit: NDArray[np.float64], item_idx: NDArray[np.integer]) -> NDArray[np.float64]:
    """Item effect of true logits [n] of rows: the item's mean over its other rows.

    The row itself is left out, so that its personalization does not count as item effect. An item with one row gets
    the overall mean.
    """
    total = np.bincount(item_idx, weights=logit)[item_idx]
    others = np.bincount(item_idx)[item_idx] - 1
    return np.asarray(np.where(others > 0, (total - logit) / np.maximum(others, 1), logit.mean()))


def to_logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-odds of probabilities, clipped to stay finite."""
    eps = np.finfo(np.float32).eps
    p = np.clip(np.asarray(probability, np.float64), eps, 1 - eps)
    return np.asarray(np.log(p) - np.log1p(-p))
