"""Negatives from earlier steps: a first-in-first-out queue of what a momentum tower encoded (MoCo, He et al. 2020).

MIM (arXiv 2502.00321) calls negatives of other devices and of earlier steps space-time negatives (tag T); how it draws
them was not found, so this form is our interpretation (tag I).

Legend: `Q` rows of the queue, `k` width, `M` masks, `n` new rows.
"""

import torch
from torch import Tensor, nn


class NegativeQueue(nn.Module):
    """The last `Q` encoded rows with their groups. Its state is in buffers, so a checkpoint holds it.

    Args:
        size: `Q`; 0 for a queue that stays empty.
        width: `k`.
        masks: `M`, numbers per row in `groups` (see `info_nce.Targets`).
    """

    rows: Tensor
    groups: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int, masks: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width))
        self.register_buffer("groups", torch.zeros(size, masks, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Rows that the queue holds now."""
        return min(int(self.pushed), len(self.rows))

    @torch.no_grad()
    def push(self, rows: Tensor, groups: Tensor) -> None:
        """Adds rows `[n, k]` with groups `[n, M]` and drops the oldest ones. Push the same rows on every rank."""
        size = len(self.rows)
        if not size:
            return
        places = (torch.arange(len(rows), device=rows.device) + self.pushed) % size
        # Of more than `Q` new rows only the last ones stay, and no place is written twice.
        self.rows[places[-size:]] = rows[-size:].to(self.rows.dtype)
        self.groups[places[-size:]] = groups[-size:]
        self.pushed += len(rows)

    def negatives(self) -> tuple[Tensor, Tensor]:
        """Rows `[len, k]` and groups `[len, M]` that the queue holds, without gradient."""
        return self.rows[: len(self)], self.groups[: len(self)]


@torch.no_grad()
def update_momentum(tower: nn.Module, trained: nn.Module, momentum: float) -> None:
    """Moves a momentum tower towards the trained one: `w = momentum w + (1 - momentum) w_trained`; buffers are copied.

    Args:
        tower: A copy of `trained`; it needs no gradient.
        trained: The tower that the optimizer updates.
        momentum: From 0 (a copy of the trained tower) to 1 (never changes).
    """
    for moving, learned in zip(tower.parameters(), trained.parameters(), strict=True):
        moving.mul_(momentum).add_(learned, alpha=1 - momentum)
    for old, new in zip(tower.buffers(), trained.buffers(), strict=True):
        old.copy_(new)
