"""Scores parsed rank queries; the part of the ranker deployment that is free of Ray.

Legend: `B` queries, `L` history, `T` candidates, `d` ID width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coldstart.alignment.warmup_blend import blend_slots
from coldstart.data.batches import RankBatch
from coldstart.data.content import Content
from coldstart.data.features import EncodedFeatures, FeatureSchema
from coldstart.rankers import Ranker

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
EncoderOutput = tuple[Floats, Floats]
"""Coarse proxy [d] and layer states [G, D] of one item."""
GOLDEN_CONTENT = Content(title="golden request", text="read before a replica counts as ready", image=None)


@dataclass(frozen=True)
class RankQuery:
    """The history and candidates of one user, with ids resolved to catalog indices.

    Attributes:
        history_idx: [L] catalog indices, 0 for unknown items.
        history_label: [L] 0 or 1.
        history_time: [L] Unix seconds.
        item_idx: [T] catalog indices of the candidates.
        now: Unix seconds.
        positions: [P] candidates whose slot holds a proxy.
        proxies: [P, d] those proxies.
        features: [T, C] and [T, N] encoded features of the candidates; `None`: all are unknown.
        id_weight: [P] weights of the ID rows in these slots; `None`: the proxies alone.
    """

    history_idx: Ints
    history_label: Ints
    history_time: Ints
    item_idx: Ints
    now: int
    positions: Ints
    proxies: Floats
    features: EncodedFeatures | None = None
    id_weight: Floats | None = None


def golden_query(proxy: Floats) -> RankQuery:
    """A query for any ranker: an unknown item as history; as candidates an unknown item and one with `proxy` `[d]`."""
    one = np.ones(1, np.int64)
    return RankQuery(0 * one, one, 1_700_000_000 * one, np.zeros(2, np.int64), 1_700_000_060, one, proxy[None])


def score(ranker: Ranker, queries: list[RankQuery], *, history: int) -> list[Floats]:
    """Click probabilities `[T]` of each query, in one forward pass.

    Args:
        ranker: In eval mode.
        queries: At least one.
        history: Longest history the ranker was trained on.
    """
    batch = collate(queries, history, ranker.features)
    with torch.inference_mode():
        slots = ranker.id_slots(batch.target_idx)
        for row, query in enumerate(queries):
            if len(query.positions):
                at, proxies = torch.from_numpy(query.positions), torch.from_numpy(query.proxies)
                if query.id_weight is not None:
                    proxies = blend_slots(slots[row, at], proxies, torch.from_numpy(query.id_weight))
                slots[row, at] = proxies
        probabilities = torch.sigmoid(ranker(batch, slots)).numpy()
    return [row[: len(query.item_idx)] for row, query in zip(probabilities, queries, strict=True)]


def collate(queries: list[RankQuery], history: int, schema: FeatureSchema) -> RankBatch:
    """Stacks queries to a padded batch; padding has weight 0 and no visible history.

    Each row equals that of `rank_request`. The batch is built at once because row by row costs as much as the ranker.
    """
    visible = [_visible_events(query, history) for query in queries]
    rows, past = len(queries), max(1, *(len(order) for order in visible))
    shape = rows, max(len(query.item_idx) for query in queries)
    history_idx, history_time = np.zeros((rows, past), np.int64), np.zeros((rows, past), np.int64)
    history_label, history_mask = np.zeros((rows, past), np.float32), np.zeros((*shape, past), np.bool_)
    target_idx, target_time = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    weight, known = np.zeros(shape, np.float32), [query.features or schema.unknown(0) for query in queries]
    categorical = np.zeros((*shape, known[0].categorical.shape[1]), np.int64)
    numeric = np.zeros((*shape, known[0].numeric.shape[1]), np.float32)
    for row, (query, order, features) in enumerate(zip(queries, visible, known, strict=True)):
        length, targets = len(order), len(query.item_idx)
        history_idx[row, :length] = query.history_idx[order]
        history_label[row, :length] = query.history_label[order]
        history_time[row, :length] = query.history_time[order]
        history_mask[row, :targets, :length] = True
        target_idx[row, :targets] = query.item_idx
        target_time[row, :targets] = query.now
        weight[row, :targets] = 1
        if query.features is not None:
            categorical[row, :targets], numeric[row, :targets] = features.categorical, features.numeric
    return RankBatch(
        history_idx=torch.from_numpy(history_idx),
        history_label=torch.from_numpy(history_label),
        history_time=torch.from_numpy(history_time),
        target_idx=torch.from_numpy(target_idx),
        target_time=torch.from_numpy(target_time),
        history_mask=torch.from_numpy(history_mask),
        label=torch.zeros(shape),
        weight=torch.from_numpy(weight),
        event_index=torch.full(shape, -1, dtype=torch.int64),
        categorical=torch.from_numpy(categorical),
        numeric=torch.from_numpy(numeric),
    )


def _visible_events(query: RankQuery, history: int) -> Ints:
    """Positions of the visible events in order of time: the last `history` ones earlier than `now`."""
    time = query.history_time
    if not len(time) or (time[-1] < query.now and (time[1:] >= time[:-1]).all()):
        return np.arange(max(len(time) - history, 0), len(time))
    order: Ints = np.argsort(time, kind="stable")
    return order[time[order] < query.now][-history:]
