"""Variants: the vectors in the target's item slot with which the same rows are scored. Histories always use ID rows.

This module has names and ground truth only, so that computing metrics imports no model.
"""

import numpy as np
from numpy.typing import NDArray

BASELINE = "oov"
DESCRIPTIONS: dict[str, str] = {
    "oov": "the ranker's out-of-vocabulary row for every item",
    "id": "the production ranker: trained ID rows, and the OOV row for cold items",
    "content_map": "regression from layer states to ID rows: ridge or MLP, the better one on held-out items (CB2CF)",
    "coarse": "coarse proxy, scaled to the mean length of mature ID rows",
    "fine": "fine proxy from the adaptor",
    "joint": "the joint ranker, which uses ID row, coarse and fine proxy together (fine.mode joint only)",
    "release": "the served vector: fine proxy of cold items, blended into the ID row with clicks (fine.warmup_events)",
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
JOINT = "joint"
CHAMPION, CHALLENGER = "champion", "challenger"
"""In a comparison of releases, the served scores of these two take the place of variants."""
OOV_SCORES = {name: f"{name}_oov" for name in (JOINT, "trained_oracle", CHAMPION, CHALLENGER)}
"""Variant with its own ranker -> name of the scores of that ranker's OOV row on the same rows."""


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
