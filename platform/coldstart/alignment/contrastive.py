"""Content-to-ID InfoNCE (IDProxy, stage 1), exact for any cut of a batch into ranks and passes, in linear memory.

What content is told from are frozen ID rows, and which ones is known before any content has been read. So the loss of a
row depends on no other row's proxy: every rank and every pass takes the loss of its own rows against the candidates of
the whole batch, and the mean of their gradients is the gradient of the batch at once. Neither gathering proxies nor
the second forward pass of gradient caching (Gao et al. 2021), which a loss in both directions needs, is called for.

Legend: `B` rows, `C` candidates, `d` ID width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS_PER_TILE, CANDIDATES_PER_TILE = 256, 2**16
"""Scores that exist at a time: linear in the batch up to 2^16 candidates, 64 MiB from there on."""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 1.0
"""What a learnt temperature is held within; the lower bound is that of CLIP (Radford et al. 2021)."""


@dataclass(frozen=True)
class Targets:
    """ID rows to find or to be told from.

    Attributes:
        rows: `[n, d]` of unit norm, frozen.
        groups: `[n]` int64; rows of one group are of items that content cannot tell apart.
        log_q: `[n]` logarithm of how often the row is expected among the candidates of a step; None if all alike.
    """

    rows: Tensor
    groups: Tensor
    log_q: Tensor | None = None


def info_nce(coarse: Tensor, own: Targets, candidates: Targets, *, temperature: Tensor | float) -> Tensor:
    """Cross entropy of finding each item's own ID row among the candidates.

    Candidates of an item's own group are no negatives, its own row among them: that one is the positive.

    Args:
        coarse: Coarse proxies `[B, d]` of unit norm, with gradient.
        own: Each one's own row `[B]`.
        candidates: `[C]` rows, the same for every rank and pass of a step.
        temperature: Softmax temperature, with gradient if it is learnt.

    Returns:
        `[B]`, float32 or wider. Its gradient reaches `coarse` and `temperature`, never the ID rows.
    """
    exact = torch.promote_types(coarse.dtype, torch.float32)
    queries = coarse.to(exact) / temperature
    losses: Tensor = _TiledCrossEntropy.apply(queries, _as(own, exact), _as(candidates, exact))  # type: ignore[no-untyped-call]
    return losses


def _as(targets: Targets, exact: torch.dtype) -> Targets:
    log_q = targets.log_q
    return Targets(targets.rows.detach().to(exact), targets.groups, None if log_q is None else log_q.to(exact))


class _TiledCrossEntropy(torch.autograd.Function):
    """Cross entropy of `queries @ rows.T` without that matrix: an online log-sum-exp over tiles of candidates.

    The gradient of a row is its softmax-weighted mean of candidates less its own row. It is as large as the row, so it
    is summed up in the same sweep, as attention does with its values, and nothing is computed again in backward.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, own: Targets, candidates: Targets) -> Tensor:
        losses = queries.new_empty(len(queries))
        gradient = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        for start in range(0, len(queries), ROWS_PER_TILE):
            rows = slice(start, start + ROWS_PER_TILE)
            mine = Targets(own.rows[rows], own.groups[rows], None if own.log_q is None else own.log_q[rows])
            losses[rows], mean = _sweep(queries[rows], mine, candidates, weigh=gradient is not None)
            if gradient is not None:
                gradient[rows] = mean - mine.rows
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[:, None] * gradient, None, None


def _sweep(queries: Tensor, own: Targets, candidates: Targets, *, weigh: bool) -> tuple[Tensor, Tensor]:
    """Losses `[b]` of a few rows, and their softmax-weighted means of the rows of their candidates `[b, d]`."""
    right = (queries * own.rows).sum(dim=1)
    if own.log_q is not None:
        right = right - own.log_q
    peak, total, mean = right, torch.ones_like(right), own.rows
    for start in range(0, len(candidates.rows), CANDIDATES_PER_TILE):
        columns = slice(start, start + CANDIDATES_PER_TILE)
        scores = queries @ candidates.rows[columns].T
        if candidates.log_q is not None:
            scores -= candidates.log_q[columns]
        scores.masked_fill_(own.groups[:, None] == candidates.groups[columns], -math.inf)
        higher = torch.maximum(peak, scores.amax(dim=1))
        shrunk = (peak - higher).exp()
        scores.sub_(higher[:, None]).exp_()
        total = total * shrunk + scores.sum(dim=1)
        if weigh:
            mean = torch.addmm(mean * shrunk[:, None], scores, candidates.rows[columns])
        peak = higher
    return peak + total.log() - right, mean / total[:, None]


class Temperature(nn.Module):
    """The softmax temperature of the loss: fixed, or learnt within bounds.

    Attributes:
        start: Where it starts, or stays.
        shift: `[1]` logarithm of what it has been multiplied with since; not there if it is fixed.
    """

    def __init__(self, start: float, *, learnt: bool) -> None:
        """A temperature of `start`."""
        super().__init__()
        self.start = start
        # A difference, since half precision keeps small numbers apart and leaves the start itself exact.
        self.shift = nn.Parameter(torch.zeros(1)) if learnt else None

    def forward(self) -> Tensor:
        """Scalar float32."""
        if self.shift is None:
            return torch.tensor(self.start)
        bounds = (math.log(bound / self.start) for bound in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
        within: Tensor = _Clamp.apply(self.shift.float(), *bounds)  # type: ignore[no-untyped-call]
        return self.start * within.squeeze(0).exp()


class CoarseModel(nn.Module):
    """All that coarse alignment trains: an encoder and the temperature of its loss.

    Attributes:
        encoder: Reads content.
        temperature: Of the softmax over ID rows.
    """

    def __init__(self, encoder: nn.Module, temperature: Temperature) -> None:
        """Both as one module."""
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs of `B` items -> coarse proxies `[B, d]` of unit norm, and the temperature."""
        return self.encoder(inputs)[0], self.temperature()


class _Clamp(torch.autograd.Function):
    """Clamps; at a bound, only a gradient that leads back inside passes, so that a parameter never gets stuck there."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, lowest: float, highest: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = lowest, highest
        return value.clamp(lowest, highest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (value,), (lowest, highest) = ctx.saved_tensors, ctx.bounds
        outwards = ((value <= lowest) & (outer > 0)) | ((value >= highest) & (outer < 0))
        return outer.masked_fill(outwards, 0.0), None, None
