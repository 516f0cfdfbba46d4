"""Variants: the models and item tables with which the same rows are scored.

This module has names and ground truth only, so that computing metrics imports no model.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe.method import SETTINGS

BASELINE = "oov"
DESCRIPTIONS: dict[str, str] = {
    "oov": "the ranker's out-of-vocabulary row for every item",
    "id": "the production ranker: trained ID rows, and the OOV row for cold items",
    "text_similarity": "id, and the similarity of TF-IDF text vectors to what the user clicked and skipped before",
    "content_similarity": "id, and the similarity of the encoder's vectors to what the user clicked and skipped before",
    **{name: description for settings in SETTINGS.values() for name, description in settings.variants.items()},
    "release": "what is served: the method's scorer with the method's item table",
    "trained_oracle": "ID row of a ranker that was trained with the held-out items' events (item_holdout only)",
    "content_oracle": "true click probability given the content (generated data only)",
    "oracle": "true click probability (generated data only)",
}
"""Variant -> description, in the order of tables and charts."""
GROUND_TRUTH = ("content_oracle", "oracle")
"""Variants that do not read past labels."""
ORACLES = ("trained_oracle", *GROUND_TRUTH)
UPPER_BOUNDS = ("content_oracle", "trained_oracle")
"""Upper bounds of what a proxy can reach, the preferred one first."""
RELEASE = "release"
CHAMPION, CHALLENGER = "champion", "challenger"
"""In a comparison of releases, the served scores of these two take the place of variants."""
OOV_SUFFIX = "_oov"
"""A variant with its own ranker also has the scores of that ranker with unknown targets, under its name and this."""


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
