"""From parsed rank queries to scores: the part of the ranker deployment that knows no Ray.

Legend: `B` queries, `L` history, `T` candidates, `d` ID width.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from coldstart.data.batches import RankBatch, rank_request
from coldstart.data.content import Content
from coldstart.data.features import Coded
from coldstart.rankers import Ranker

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Reading = tuple[Floats, Floats]
"""Coarse proxy [d] and layer states [G, D] of one item."""
GOLDEN_CONTENT = Content(title="golden request", text="read before a replica counts as ready", picture=None)


@dataclass(frozen=True)
class RankQuery:
    """One user's candidates, parsed and resolved.

    Attributes:
        history_idx: [L] catalogue indices, 0 for unknown items.
        history_label: [L] 0 or 1.
        history_time: [L] Unix seconds.
        item_idx: [T] catalogue indices of the candidates.
        now: Unix seconds.
        positions: [P] candidates whose slot holds a proxy.
        proxies: [P, d] those proxies.
        features: [T, C] and [T, N] encoded features of the candidates; None if nothing is known.
    """

    history_idx: Ints
    history_label: Ints
    history_time: Ints
    item_idx: Ints
    now: int
    positions: Ints
    proxies: Floats
    features: Coded | None = None


def golden_query(proxy: Floats) -> RankQuery:
    """A request that any ranker can score: an unknown item seen, an unknown candidate and one with `proxy` `[d]`."""
    one = np.ones(1, np.int64)
    return RankQuery(0 * one, one, 1_700_000_000 * one, np.zeros(2, np.int64), 1_700_000_060, one, proxy[None])


def score(ranker: Ranker, queries: list[RankQuery], *, history: int) -> list[Floats]:
    """Click probabilities `[T]` of every query, in one pass.

    Args:
        ranker: In eval mode.
        queries: At least one.
        history: Longest history the ranker was trained with.
    """
    batch = stack(
        [
            rank_request(
                q.history_idx,
                q.history_label,
                q.history_time,
                q.item_idx,
                q.now,
                history=history,
                features=q.features or ranker.features.unknown(len(q.item_idx)),
            )
            for q in queries
        ]
    )
    with torch.inference_mode():
        slots = ranker.id_slots(batch.target_idx)
        for row, query in enumerate(queries):
            if len(query.positions):
                slots[row, torch.from_numpy(query.positions)] = torch.from_numpy(query.proxies)
        probabilities = torch.sigmoid(ranker(batch, slots)).numpy()
    return [row[: len(query.item_idx)] for row, query in zip(probabilities, queries, strict=True)]


def stack(batches: list[RankBatch]) -> RankBatch:
    """Puts the rows of several batches under each other, padded with candidates and events that nobody sees."""
    if len(batches) == 1:
        return batches[0]
    past = max(batch.history_idx.shape[1] for batch in batches)
    targets = max(batch.target_idx.shape[1] for batch in batches)

    def padded(name: str, value: Tensor) -> Tensor:
        if name == "visible":
            return F.pad(value, (0, past - value.shape[2], 0, targets - value.shape[1]))
        if name in ("categorical", "numeric"):
            return F.pad(value, (0, 0, 0, targets - value.shape[1]))
        length = past if name.startswith("history") else targets
        return F.pad(value, (0, length - value.shape[1]))

    return RankBatch(
        **{f.name: torch.cat([padded(f.name, getattr(batch, f.name)) for batch in batches]) for f in fields(RankBatch)}
    )
