"""How a target attends to the user's history, depending on the vector in its item slot.

With a good vector, attention selects the events that are relevant to the item. The OOV row selects the same events for
every item. The statistics come from the ranker's own history attention; rankers without it have none.

Legend: `B` rows, `T` targets, `L` history, `H` heads, `d` ID width.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from coldstart.data.batches import RankBatch
from coldstart.modules.history_attention import HistoryAttention
from coldstart.rankers.interface import Ranker

STATS = ("history_weight", "normalized_entropy", "clicked_weight", "clicked_fraction", "total_variation")


@torch.inference_mode()
def attention_stats(
    ranker: Ranker,
    batches: Iterable[RankBatch],
    tables: Mapping[str, Tensor],
    groups: Mapping[str, Tensor],
    *,
    base: str,
) -> dict[str, dict[str, dict[str, float]]]:
    """Means over heads and over the targets whose history has both clicked and skipped events.

    Args:
        ranker: In eval mode.
        batches: Windows of users.
        tables: Variant -> slot table [V, d].
        groups: Group of items -> [V] bool.
        base: The variant whose attention the others are compared with.

    Returns:
        Group -> variant -> `history_weight`, the attention weight on the history as a whole; within the history,
        `normalized_entropy`, the entropy relative to uniform weights, `clicked_weight`, the weight on clicked events,
        and `clicked_fraction`, the fraction of events that are clicked; `total_variation`, the total variation distance
        to the attention of `base`; and `targets`, their number. Empty for rankers without history attention, and if
        there are no such targets.
    """
    sums: dict[tuple[str, str], Tensor] = {}
    counts = dict.fromkeys(groups, 0)
    for batch in batches:
        clicked = (batch.history_mask & (batch.history_label > 0)[:, None]).float()
        has_both = (clicked.sum(-1) > 0) & (clicked.sum(-1) < batch.history_mask.sum(-1))
        usable = (batch.weight > 0) & has_both
        attention: dict[str, Tensor] = {}
        for name, table in tables.items():
            weights = _weights(ranker, batch, table[batch.target_idx])
            if weights is None:
                return {}
            attention[name] = weights
        for group, members in groups.items():
            chosen = usable & members[batch.target_idx]
            counts[group] += int(chosen.sum())
            for name, weights in attention.items():
                stats = _stats(weights, attention[base], clicked, batch.history_mask)[chosen].double().sum(0)
                sums[group, name] = sums.get((group, name), torch.zeros(len(STATS), dtype=torch.double)) + stats
    return {
        group: {
            name: dict(zip(STATS, (sums[group, name] / count).tolist(), strict=True)) | {"targets": count}
            for name in tables
        }
        for group, count in counts.items()
        if count
    }


def _weights(ranker: Ranker, batch: RankBatch, slots: Tensor) -> Tensor | None:
    """Attention weights `[B, H, T, 1 + L]` of the targets, from the ranker's last attention over the history."""
    calls: list[tuple[HistoryAttention, Any]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs)))
        for module in ranker.modules()
        if isinstance(module, HistoryAttention)
    ]
    try:
        ranker(batch, slots)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        return None
    attention, inputs = calls[-1]
    return attention.weights(*inputs)


def _stats(weights: Tensor, base: Tensor, clicked: Tensor, history_mask: Tensor) -> Tensor:
    """`[B, T, stats]` in the order of STATS, each a mean over heads."""
    events = weights[..., 1:]
    history = events.sum(-1)
    tiny = torch.finfo(weights.dtype).tiny
    within = events / history.clamp(min=tiny)[..., None]
    entropy = -(within * within.clamp(min=tiny).log()).sum(-1)
    length = history_mask.sum(-1).float()
    normalized_entropy = entropy / length.clamp(min=2).log()[:, None]
    clicked_weight = (within * clicked[:, None]).sum(-1)
    total_variation = (weights - base).abs().sum(-1) / 2
    clicked_fraction = (clicked.sum(-1) / length.clamp(min=1))[:, None].expand_as(history)
    stats = [history, normalized_entropy, clicked_weight, clicked_fraction, total_variation]
    return torch.stack(stats, dim=-1).mean(1)
