"""Similarity of a candidate's content to the content of what the user clicked and skipped before.

Legend: `B` rows, `T` targets, `L` history, `D` content width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FEATURES = ("mean_clicked", "max_clicked", "num_clicked", "mean_skipped", "max_skipped", "num_skipped")
"""The last axis of `similarity_features`; numbers of events are `log1p`."""


def similarity_features(target: Tensor, history: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum cosine with clicked and with skipped events, and the number of each.

    An event whose item has no content (a zero vector) is left out; without any event, mean and maximum are 0.

    Args:
        target: [B, T, D] content of the targets.
        history: [B, L, D] content of the history.
        label: [B, L] clicked (1) or not (0).
        mask: [B, T, L] events that a target may see.

    Returns:
        `[B, T, 6]` in the order of `FEATURES`.
    """
    cosine = F.normalize(target, dim=-1) @ F.normalize(history, dim=-1).transpose(-1, -2)
    visible = mask & history.any(dim=-1)[:, None, :]
    clicked = (label > 0.5)[:, None, :]
    parts = []
    for chosen in (visible & clicked, visible & ~clicked):
        count = chosen.sum(-1)
        mean = (cosine * chosen).sum(-1) / count.clamp(min=1)
        largest = cosine.masked_fill(~chosen, -torch.inf).amax(-1) if cosine.shape[-1] else torch.zeros_like(mean)
        parts += [mean, torch.where(count > 0, largest, 0.0), torch.log1p(count.to(cosine.dtype))]
    return torch.stack(parts, dim=-1)
