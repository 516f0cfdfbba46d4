"""Where a target looks in the user's history, by the vector that stands in its slot.

A slot that fits makes attention pick the events that bear on the item; the OOV row can only look at the same events for
every item. Read from the ranker's own attention over the past; rankers without it have nothing to show here.

Legend: `B` rows, `T` targets, `L` history, `H` heads, `d` ID width.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from coldstart.data.batches import RankBatch
from coldstart.rankers.attention import PastAttention
from coldstart.rankers.interface import Ranker

FIGURES = ("past", "evenness", "liked", "liked_events", "moved")


@torch.inference_mode()
def gaze(
    ranker: Ranker,
    batches: Iterable[RankBatch],
    tables: Mapping[str, Tensor],
    among: Mapping[str, Tensor],
    *,
    base: str,
) -> dict[str, dict[str, dict[str, float]]]:
    """Means over counting targets whose history holds clicked and skipped events, and over heads.

    Args:
        ranker: In eval mode.
        batches: Windows of users.
        tables: Variant -> slot table [V, d].
        among: Group of items -> [V] bool.
        base: Of the tables; what the others' gaze is compared with.

    Returns:
        Group -> variant -> `past`, the share of the weight that goes to events at all; among events, `evenness`, the
        entropy as a share of that of equal weights, `liked`, the share of the weight on clicked ones, beside
        `liked_events`, their share in number; `moved`, the share of the weight that lies elsewhere than for `base`;
        and `targets`. Empty for rankers without attention over the past, and without such targets.
    """
    sums: dict[tuple[str, str], Tensor] = {}
    counts = dict.fromkeys(among, 0)
    for batch in batches:
        liked = (batch.visible & (batch.history_label > 0)[:, None]).float()
        both = (liked.sum(-1) > 0) & (liked.sum(-1) < batch.visible.sum(-1))
        usable = (batch.weight > 0) & both
        asked = {name: _weights(ranker, batch, table[batch.target_idx]) for name, table in tables.items()}
        looks = {name: look for name, look in asked.items() if look is not None}
        if len(looks) < len(tables):
            return {}
        for group, members in among.items():
            chosen = usable & members[batch.target_idx]
            counts[group] += int(chosen.sum())
            for name, look in looks.items():
                found = _figures(look, looks[base], liked, batch.visible)[chosen].double().sum(0)
                sums[group, name] = sums.get((group, name), torch.zeros(len(FIGURES), dtype=torch.double)) + found
    return {
        group: {
            name: dict(zip(FIGURES, (sums[group, name] / count).tolist(), strict=True)) | {"targets": count}
            for name in tables
        }
        for group, count in counts.items()
        if count
    }


def _weights(ranker: Ranker, batch: RankBatch, slots: Tensor) -> Tensor | None:
    """Attention `[B, H, T, 1 + L]` of the targets, the ranker's last look at the past."""
    asked: list[tuple[PastAttention, Any]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, given: asked.append((module, given)))
        for module in ranker.modules()
        if isinstance(module, PastAttention)
    ]
    try:
        ranker(batch, slots)
    finally:
        for hook in hooks:
            hook.remove()
    if not asked:
        return None
    attention, given = asked[-1]
    return attention.weights(*given)


def _figures(look: Tensor, base: Tensor, liked: Tensor, visible: Tensor) -> Tensor:
    """`[B, T, figures]`, each a mean over heads."""
    events = look[..., 1:]
    past = events.sum(-1)
    tiny = torch.finfo(look.dtype).tiny
    inner = events / past.clamp(min=tiny)[..., None]
    entropy = -(inner * inner.clamp(min=tiny).log()).sum(-1)
    number = visible.sum(-1).float()
    evenness = entropy / number.clamp(min=2).log()[:, None]
    on_liked = (inner * liked[:, None]).sum(-1)
    moved = (look - base).abs().sum(-1) / 2
    share = (liked.sum(-1) / number.clamp(min=1))[:, None].expand_as(past)
    return torch.stack([past, evenness, on_liked, share, moved], dim=-1).mean(1)
