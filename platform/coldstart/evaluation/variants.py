"""Variants: what stands in the target's item slot while the same rows are scored. Histories always carry ID rows.

Legend: `V` vocabulary (items + 1, row 0 is OOV), `d` ID width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.rankers.interface import Ranker

BASELINE = "oov"
MEANINGS: dict[str, str] = {
    "oov": "the ranker's out-of-vocabulary row for every item",
    "id": "production ranker: the ID row where trained, the OOV row for cold items",
    "mlp_map": "regression from frozen layer states to ID rows (CB2CF)",
    "coarse": "coarse proxy, scaled to the mean length of mature ID rows",
    "fine": "fine proxy from the adaptor",
    "release": "what is served: fine proxy for cold items, ID row for the rest",
    "content_oracle": "true click probability from what content shows (generated data only)",
    "oracle": "true click probability (generated data only)",
}
"""Variant -> what it is, in the order of tables and charts."""
ORACLES = ("content_oracle", "oracle")


def slot_tables(
    ranker: Ranker,
    *,
    mapped: Tensor,
    coarse: Tensor,
    fine: Tensor,
    train_events: NDArray[np.integer],
    mature: NDArray[np.bool_],
) -> dict[str, Tensor]:
    """The slot table `[V, d]` of every variant that is scored through the ranker.

    Coarse proxies have unit length, ID rows do not; one common factor, the mean length of mature ID rows, brings them
    to the scale the ranker knows without giving any item a popularity.

    Args:
        ranker: Gives the ID rows.
        mapped: [V, d] rows of the content map.
        coarse: [V, d] coarse proxies, unit length.
        fine: [V, d] fine proxies.
        train_events: [V] train events per item; an item without any is cold.
        mature: [V] which ID rows are well trained.
    """
    with torch.no_grad():
        ids = ranker.id_slots(torch.arange(len(train_events)))
    for name, given in (("mapped", mapped), ("coarse", coarse), ("fine", fine)):
        if given.shape != ids.shape:
            raise ValueError(f"{name} rows have shape {tuple(given.shape)}, the ranker's ID table {tuple(ids.shape)}")
    oov = ids[:1].expand_as(ids)
    lengths = ids[torch.from_numpy(mature)].norm(dim=-1)
    scale = lengths.mean() if len(lengths) else torch.tensor(1.0)
    cold = torch.from_numpy(train_events == 0)[:, None]
    tables = {
        "oov": oov,
        "id": ids,
        "mlp_map": mapped,
        "coarse": coarse * scale,
        "fine": fine,
        "release": torch.where(cold, fine, ids),
    }
    return {name: torch.cat([oov[:1], table[1:]]).float() for name, table in tables.items()}


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
