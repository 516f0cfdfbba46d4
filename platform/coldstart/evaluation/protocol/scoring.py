"""Scores rows and items with several models at once, so that each batch is built only once.

Legend: `B` rows, `T` targets, `L` history, `n` evaluated events, `m` items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.data.batches import RankBatch
from coldstart.data.features import NO_FEATURES, EncodedFeatures
from coldstart.training.ctr_trainer import Score

Logits = dict[str, NDArray[np.float32]]
CONTEXTS_PER_PASS = 16
ITEMS_PER_PASS = 256
_NO_ITEM_FEATURES = NO_FEATURES.unknown(0)


@torch.inference_mode()
def score_rows(batches: Iterable[RankBatch], scores: Mapping[str, Score]) -> tuple[NDArray[np.int64], Logits]:
    """Logits of all targets with a positive weight.

    Args:
        batches: Windows of users.
        scores: Variant -> its score; models are in eval mode.

    Returns:
        Flat event positions [n], ascending, and variant -> logits [n] in the same order.
    """
    rows: list[NDArray[np.int64]] = []
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in scores}
    for batch in batches:
        counts = batch.weight > 0
        rows.append(batch.event_index[counts].numpy())
        for name, score in scores.items():
            logits[name].append(score(batch)[counts].float().numpy())
    if not rows:
        return np.zeros(0, np.int64), {name: np.zeros(0, np.float32) for name in scores}
    event = np.concatenate(rows)
    order = np.argsort(event)
    return event[order], {name: np.concatenate(parts)[order] for name, parts in logits.items()}


def sample_contexts(batches: Iterable[RankBatch], *, max_rows: int) -> RankBatch:
    """Samples contexts: a user's history at the time of an evaluated target.

    Returns:
        A batch with `T` = 1 and at most `max_rows` rows; histories are padded to the longest.
    """
    chosen: list[RankBatch] = []
    held = 0
    for batch in batches:
        usable = torch.nonzero(batch.weight.sum(1) > 0).squeeze(1)[: max_rows - held]
        first = batch.weight[usable].argmax(1, keepdim=True)
        chosen.append(_at(batch, usable, first))
        held += len(usable)
        if held >= max_rows:
            break
    longest = max(part.history_idx.shape[1] for part in chosen)
    parts = [_padded(part, longest) for part in chosen]
    return RankBatch(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(RankBatch)})


def _at(batch: RankBatch, rows: Tensor, target: Tensor) -> RankBatch:
    def pick(values: Tensor) -> Tensor:
        at = target.reshape(-1, 1, *[1] * (values.dim() - 2)).expand(-1, 1, *values.shape[2:])
        return values[rows].gather(1, at)

    return RankBatch(
        user_idx=batch.user_idx[rows],
        history_idx=batch.history_idx[rows],
        history_row=batch.history_row[rows],
        history_label=batch.history_label[rows],
        history_time=batch.history_time[rows],
        target_idx=pick(batch.target_idx),
        target_row=pick(batch.target_row),
        target_time=pick(batch.target_time),
        history_mask=pick(batch.history_mask),
        label=pick(batch.label),
        weight=pick(batch.weight),
        event_index=pick(batch.event_index),
        categorical=pick(batch.categorical),
        numeric=pick(batch.numeric),
    )


def _padded(batch: RankBatch, length: int) -> RankBatch:
    missing = (0, length - batch.history_idx.shape[1])
    names = ("history_idx", "history_row", "history_label", "history_time", "history_mask")
    return replace(batch, **{name: torch.nn.functional.pad(getattr(batch, name), missing) for name in names})


@torch.inference_mode()
def mean_logits(
    contexts: RankBatch,
    items: NDArray[np.integer],
    scores: Mapping[str, Score],
    item_features: EncodedFeatures = _NO_ITEM_FEATURES,
) -> Logits:
    """Item effects: the mean logit of each item over fixed contexts.

    Args:
        contexts: Rows with `T` = 1. The target's item is replaced, its time is kept.
        items: [m] item indices.
        scores: Variant -> its score; models are in eval mode.
        item_features: [V] by item index, if the dataset has any.

    Returns:
        Variant -> [m] mean logits.
    """
    sums = {name: np.zeros(len(items), np.float64) for name in scores}
    total = len(contexts.target_idx)
    for start in range(0, total, CONTEXTS_PER_PASS):
        stop = min(start + CONTEXTS_PER_PASS, total)
        for first in range(0, len(items), ITEMS_PER_PASS):
            part = slice(first, first + ITEMS_PER_PASS)
            batch = _with_targets(contexts, slice(start, stop), items[part], item_features)
            for name, score in scores.items():
                sums[name][part] += score(batch).double().sum(0).numpy()
    return {name: (values / max(total, 1)).astype(np.float32) for name, values in sums.items()}


def _with_targets(
    contexts: RankBatch, rows: slice, items: NDArray[np.integer], item_features: EncodedFeatures
) -> RankBatch:
    part = {f.name: getattr(contexts, f.name)[rows] for f in fields(RankBatch)}
    shape = (len(part["target_idx"]), len(items))
    for name in ("target_time", "label", "weight", "event_index"):
        part[name] = part[name].expand(shape)
    for name in ("history_mask", "categorical", "numeric"):
        part[name] = part[name].expand(*shape, -1)
    part["target_idx"] = part["target_row"] = torch.as_tensor(items, dtype=torch.int64).expand(shape)
    # Item features come first. Those of user and context are kept.
    for name, values in (("categorical", item_features.categorical), ("numeric", item_features.numeric)):
        if values.shape[1]:
            of_items = torch.as_tensor(values[items], dtype=part[name].dtype).expand(*shape, -1)
            part[name] = torch.cat([of_items, part[name][..., values.shape[1] :]], dim=-1)
    return RankBatch(**part)
