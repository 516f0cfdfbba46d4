"""Rank batches: rows of one user each, whose targets are scored in one pass."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """`B` user rows, each with a history of `L` events and `T` targets.

    In training the targets of a row are events of the same user window; in serving they are the candidates.
    Item indices are catalogue indices (0 = OOV or padding). Times are Unix seconds.

    Attributes:
        history_idx: [B, L] int64 item indices.
        history_label: [B, L] float32 clicked (1) or not (0).
        history_time: [B, L] int64.
        target_idx: [B, T] int64 item indices.
        target_time: [B, T] int64.
        visible: [B, T, L] bool, history events the target may see: strictly earlier in time, within the last
            `ranker.history` of them, and not padding.
        label: [B, T] float32; zeros where unknown (serving).
        weight: [B, T] float32, 1 where the target counts (right split, not padding), else 0.
        row: [B, T] int64 position of the target in the dataset's flat event order, -1 where it has none.
    """

    history_idx: Tensor
    history_label: Tensor
    history_time: Tensor
    target_idx: Tensor
    target_time: Tensor
    visible: Tensor
    label: Tensor
    weight: Tensor
    row: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})
