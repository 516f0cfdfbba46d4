"""How long ago an event lies, and weights that are learnt by it.

Legend: `B` rows, `S` those who look back (targets or later events), `L` history, `H` heads.
"""

from typing import Any

import torch
from torch import Tensor, nn

BUCKETS = 32
UNSEEN = BUCKETS
"""Stands for the age of an event that is not seen at all."""


def age_buckets(now: Tensor, then: Tensor, seen: Tensor) -> Tensor:
    """Whole parts of log2 of ages in seconds, `UNSEEN` for what is not seen.

    Args:
        now: [B, S] int64 Unix seconds of those who look back.
        then: [B, L] int64 of the events.
        seen: [B, S, L] bool.

    Returns:
        [B, S, L] int32.
    """
    # Four bytes a pair are enough once times are relative: 2^31 seconds are 68 years.
    latest = now.amax(1, keepdim=True)
    ages = _relative(now, latest).unsqueeze(-1) - _relative(then, latest).unsqueeze(-2)
    # The exponent of a float is the whole part of its log2; 126 makes it that of `frexp`.
    bucket = (ages.clamp_(min=1).float().view(torch.int32) >> 23).sub_(126).clamp_(max=BUCKETS - 1)
    return bucket.masked_fill_(~seen, UNSEEN)


def _relative(time: Tensor, latest: Tensor) -> Tensor:
    return (time - latest).clamp(min=-(2**30), max=2**30).int()


class Recency(nn.Module):
    """A number per age bucket and head, learnt from zero.

    Args:
        heads: `H`.
        unseen: The number of an event that is not seen.
    """

    def __init__(self, heads: int, *, unseen: float) -> None:
        super().__init__()
        self.unseen = unseen
        self.by_age = nn.Parameter(torch.zeros(heads, BUCKETS))

    def forward(self, age: Tensor, *, exponential: bool = False) -> Tensor:
        """Numbers `[H, B, S, L]` of ages from `age_buckets`, or their exponentials."""
        by_age = self.by_age.exp() if exponential else self.by_age
        padded = nn.functional.pad(by_age, (0, 1), value=self.unseen)
        out: Tensor = _Lookup.apply(padded, age)  # type: ignore[no-untyped-call]
        return out


class _Lookup(torch.autograd.Function):
    """`table[:, index]`, with the gradient as a histogram: that of plain indexing takes most of a training step."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = table.shape[1]
        return table.index_select(1, index.flatten()).reshape(len(table), *index.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        (grad,) = grads
        flat = index.flatten()
        parts = [torch.bincount(flat, weights=head.flatten(), minlength=ctx.size) for head in grad]
        return torch.stack(parts).to(grad.dtype), None
