"""Variants: what stands in the target's item slot while the same rows are scored. Histories always carry ID rows.

Names and truths only: what measures scores need not import a model.
"""

import numpy as np
from numpy.typing import NDArray

BASELINE = "oov"
MEANINGS: dict[str, str] = {
    "oov": "the ranker's out-of-vocabulary row for every item",
    "id": "production ranker: the ID row where trained, the OOV row for cold items",
    "mlp_map": "regression from frozen layer states to ID rows (CB2CF)",
    "coarse": "coarse proxy, scaled to the mean length of mature ID rows",
    "fine": "fine proxy from the adaptor",
    "joint": "the joint ranker: ID row, coarse and fine proxy side by side (fine.mode joint only)",
    "release": "what is served: fine proxy for cold items, handed over to the ID row as they warm up (fine.hand_over)",
    "trained_oracle": "ID row of a ranker that was trained with the held-out items' events (item_holdout only)",
    "content_oracle": "true click probability from what content shows (generated data only)",
    "oracle": "true click probability (generated data only)",
}
"""Variant -> what it is, in the order of tables and charts."""
TRUTHS = ("content_oracle", "oracle")
"""Variants that read no past labels."""
ORACLES = ("trained_oracle", *TRUTHS)
CEILINGS = ("content_oracle", "trained_oracle")
"""What a perfect proxy could reach, the better one first."""
JOINT = "joint"
CHAMPION, CHALLENGER = "champion", "challenger"
"""Two releases on the same rows; what each serves takes the place of the variants."""
CONTEXTS = {name: f"{name}_context" for name in (JOINT, "trained_oracle", CHAMPION, CHALLENGER)}
"""Variant of another ranker -> scores of that ranker's OOV row on the same rows."""


def item_appeal(logit: NDArray[np.float64], item_idx: NDArray[np.integer]) -> NDArray[np.float64]:
    """The part of true per-row logits [n] that is the same for every user: the item's mean over its other rows.

    Leaving the row itself out keeps its own taste from passing as appeal. An item with one row gets the overall mean.
    """
    total = np.bincount(item_idx, weights=logit)[item_idx]
    others = np.bincount(item_idx)[item_idx] - 1
    return np.asarray(np.where(others > 0, (total - logit) / np.maximum(others, 1), logit.mean()))


def to_logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-odds of probabilities, kept finite."""
    eps = np.finfo(np.float32).eps
    p = np.clip(np.asarray(probability, np.float64), eps, 1 - eps)
    return np.asarray(np.log(p) - np.log1p(-p))
