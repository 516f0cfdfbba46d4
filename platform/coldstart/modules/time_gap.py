"""Time gaps between an event and a later query, in logarithmic buckets, with one learned number per bucket.

Legend: `B` rows, `S` queries (targets or later events), `L` history, `H` heads.
"""

from typing import Any

import torch
from torch import Tensor, nn

BUCKETS = 32
MASKED = BUCKETS
"""Bucket of an event that the query must not see."""


def time_gap_buckets(now: Tensor, then: Tensor, mask: Tensor) -> Tensor:
    """Buckets of time gaps: the whole part of log2 of the seconds, plus 1; `MASKED` where `mask` is False.

    Args:
        now: [B, S] int64 Unix seconds of the queries.
        then: [B, L] int64 Unix seconds of the events.
        mask: [B, S, L] bool, True where the query may see the event.

    Returns:
        [B, S, L] int32.
    """
    # Times relative to the latest query fit into int32 (2^31 seconds are 68 years), which halves the memory.
    latest = now.amax(1, keepdim=True)
    gaps = _relative(now, latest).unsqueeze(-1) - _relative(then, latest).unsqueeze(-2)
    # The exponent bits of a float hold the whole part of its log2; subtracting 126 gives the exponent of `frexp`.
    bucket = (gaps.clamp_(min=1).float().view(torch.int32) >> 23).sub_(126).clamp_(max=BUCKETS - 1)
    return bucket.masked_fill_(~mask, MASKED)


def _relative(time: Tensor, latest: Tensor) -> Tensor:
    return (time - latest).clamp(min=-(2**30), max=2**30).int()


class TimeGapBias(nn.Module):
    """One learned number per head and time-gap bucket; all start at zero.

    Args:
        heads: `H`.
        masked_value: The number of a masked event.
    """

    def __init__(self, heads: int, *, masked_value: float) -> None:
        super().__init__()
        self.masked_value = masked_value
        self.bias = nn.Parameter(torch.zeros(heads, BUCKETS))

    def forward(self, time_gap: Tensor, *, exponential: bool = False) -> Tensor:
        """Numbers `[H, B, S, L]` of buckets from `time_gap_buckets`, or their exponentials."""
        bias = self.bias.exp() if exponential else self.bias
        padded = nn.functional.pad(bias, (0, 1), value=self.masked_value)
        out: Tensor = _Lookup.apply(padded, time_gap)  # type: ignore[no-untyped-call]
        return out


class _Lookup(torch.autograd.Function):
    """`table[:, index]` with a histogram as backward pass; plain indexing would take most of a training step."""

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
        by_head = [torch.bincount(flat, weights=head.flatten(), minlength=ctx.size) for head in grad]
        return torch.stack(by_head).to(grad.dtype), None
