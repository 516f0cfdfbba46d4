"""Slot tables: the vector in each item's slot, for every variant that the ranker scores.

Legend: `V` vocabulary (items + 1, row 0 is OOV), `d` ID width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.alignment.warmup_blend import blend_slots
from coldstart.rankers.interface import Ranker


def variant_tables(
    ranker: Ranker,
    *,
    mapped: Tensor,
    coarse: Tensor,
    fine: Tensor,
    id_weight: Tensor,
    mature: NDArray[np.bool_],
) -> dict[str, Tensor]:
    """The slot table `[V, d]` of every variant that the ranker scores.

    Coarse proxies have unit length, ID rows do not. One common factor, the mean length of mature ID rows, scales the
    proxies to the range of the ranker without adding any item popularity.

    Args:
        ranker: Has the ID rows.
        mapped: [V, d] ID rows predicted by regression from content.
        coarse: [V, d] coarse proxies, unit length.
        fine: [V, d] fine proxies.
        id_weight: [V] weight of the ID row in each served slot vector.
        mature: [V] items with a well-trained ID row.
    """
    with torch.no_grad():
        ids = ranker.id_slots(torch.arange(len(id_weight)))
    for name, table in (("mapped", mapped), ("coarse", coarse), ("fine", fine)):
        if table.shape != ids.shape:
            raise ValueError(f"{name} rows have shape {tuple(table.shape)}, the ranker's ID table {tuple(ids.shape)}")
    oov = ids[:1].expand_as(ids)
    lengths = ids[torch.from_numpy(mature)].norm(dim=-1)
    scale = lengths.mean() if len(lengths) else torch.tensor(1.0)
    tables = {
        "oov": oov,
        "id": ids,
        "content_map": mapped,
        "coarse": coarse * scale,
        "fine": fine,
        "release": blend_slots(ids, fine, id_weight),
    }
    return {name: torch.cat([oov[:1], table[1:]]).float() for name, table in tables.items()}
