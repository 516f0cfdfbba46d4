"""Slot tables: for every variant that is scored through the ranker, what stands in each item's slot.

Legend: `V` vocabulary (items + 1, row 0 is OOV), `d` ID width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.alignment.hand_over import blend
from coldstart.rankers.interface import Ranker


def slot_tables(
    ranker: Ranker,
    *,
    mapped: Tensor,
    coarse: Tensor,
    fine: Tensor,
    id_shares: Tensor,
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
        id_shares: [V] the ID row's share of each slot as it is served.
        mature: [V] which ID rows are well trained.
    """
    with torch.no_grad():
        ids = ranker.id_slots(torch.arange(len(id_shares)))
    for name, given in (("mapped", mapped), ("coarse", coarse), ("fine", fine)):
        if given.shape != ids.shape:
            raise ValueError(f"{name} rows have shape {tuple(given.shape)}, the ranker's ID table {tuple(ids.shape)}")
    oov = ids[:1].expand_as(ids)
    lengths = ids[torch.from_numpy(mature)].norm(dim=-1)
    scale = lengths.mean() if len(lengths) else torch.tensor(1.0)
    tables = {
        "oov": oov,
        "id": ids,
        "mlp_map": mapped,
        "coarse": coarse * scale,
        "fine": fine,
        "release": blend(ids, fine, id_shares),
    }
    return {name: torch.cat([oov[:1], table[1:]]).float() for name, table in tables.items()}
