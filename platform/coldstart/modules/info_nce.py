"""Content-to-ID InfoNCE (IDProxy, stage 1), exact for any split of a batch into ranks and passes, in linear memory.

Candidates are frozen ID rows, chosen before any content is encoded. So the loss of a row does not depend on the proxies
of other rows: every rank and pass computes the loss of its own rows against the candidates of the whole batch, and the
mean of their gradients equals the gradient of the whole batch. A loss in both directions would need gathered proxies
or the second forward pass of gradient caching (Gao et al. 2021); this one does not.

Legend: `B` rows, `C` candidates, `d` ID width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS_PER_TILE, CANDIDATES_PER_TILE = 256, 2**16
"""Size of the score tile in memory: linear in the batch up to 2^16 candidates, then constant at 64 MiB."""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 1.0
"""Bounds of a learned temperature; the lower one is that of CLIP (Radford et al. 2021)."""


@dataclass(frozen=True)
class Targets:
    """ID rows that serve as positives or as candidates.

    Attributes:
        rows: `[n, d]` of unit norm, frozen.
        groups: `[n]` int64; items of one group have the same content.
        log_q: `[n]` logarithm of the expected count of the row among the candidates of a step; None for no correction.
    """

    rows: Tensor
    groups: Tensor
    log_q: Tensor | None = None


def info_nce(coarse: Tensor, own: Targets, candidates: Targets, *, temperature: Tensor | float) -> Tensor:
    """Cross entropy of classifying each item's own ID row among the candidates.

    Candidates of the item's own group are excluded from the negatives; its own row is the positive.

    Args:
        coarse: Coarse proxies `[B, d]` of unit norm, with gradient.
        own: The own ID row of each proxy, `[B]`.
        candidates: `[C]` rows, the same for all ranks and passes of a step.
        temperature: Softmax temperature, with gradient if it is learned.

    Returns:
        Losses `[B]`, float32 or wider. The gradient reaches `coarse` and `temperature`, never the ID rows.
    """
    dtype = torch.promote_types(coarse.dtype, torch.float32)
    queries = coarse.to(dtype) / temperature
    losses: Tensor = _TiledCrossEntropy.apply(queries, _as(own, dtype), _as(candidates, dtype))  # type: ignore[no-untyped-call]
    return losses


def _as(targets: Targets, dtype: torch.dtype) -> Targets:
    log_q = targets.log_q
    return Targets(targets.rows.detach().to(dtype), targets.groups, None if log_q is None else log_q.to(dtype))


class _TiledCrossEntropy(torch.autograd.Function):
    """Cross entropy of `queries @ rows.T` without storing that matrix: an online log-sum-exp over tiles of candidates.

    The gradient of a row is the softmax-weighted mean of the candidates minus its own row. It is as small as the row
    itself, so the forward pass accumulates it, as attention does with values, and backward recomputes nothing.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, own: Targets, candidates: Targets) -> Tensor:
        losses = queries.new_empty(len(queries))
        gradient = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        for start in range(0, len(queries), ROWS_PER_TILE):
            rows = slice(start, start + ROWS_PER_TILE)
            positives = Targets(own.rows[rows], own.groups[rows], None if own.log_q is None else own.log_q[rows])
            losses[rows], mean = _sweep(queries[rows], positives, candidates, weigh=gradient is not None)
            if gradient is not None:
                gradient[rows] = mean - positives.rows
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[:, None] * gradient, None, None


def _sweep(queries: Tensor, own: Targets, candidates: Targets, *, weigh: bool) -> tuple[Tensor, Tensor]:
    """Losses `[b]` of one tile of rows, and their softmax-weighted means of candidate rows `[b, d]`."""
    positive = (queries * own.rows).sum(dim=1)
    if own.log_q is not None:
        positive = positive - own.log_q
    peak, total, mean = positive, torch.ones_like(positive), own.rows
    for start in range(0, len(candidates.rows), CANDIDATES_PER_TILE):
        columns = slice(start, start + CANDIDATES_PER_TILE)
        scores = queries @ candidates.rows[columns].T
        if candidates.log_q is not None:
            scores -= candidates.log_q[columns]
        scores.masked_fill_(own.groups[:, None] == candidates.groups[columns], -math.inf)
        new_peak = torch.maximum(peak, scores.amax(dim=1))
        shrunk = (peak - new_peak).exp()
        scores.sub_(new_peak[:, None]).exp_()
        total = total * shrunk + scores.sum(dim=1)
        if weigh:
            mean = torch.addmm(mean * shrunk[:, None], scores, candidates.rows[columns])
        peak = new_peak
    return peak + total.log() - positive, mean / total[:, None]


class Temperature(nn.Module):
    """The softmax temperature of the loss: fixed, or learned within bounds.

    Attributes:
        start: Initial or fixed value.
        shift: `[1]` logarithm of the learned factor on `start`; None if the temperature is fixed.
    """

    def __init__(self, start: float, *, learned: bool) -> None:
        """Creates a temperature with the value `start`."""
        super().__init__()
        self.start = start
        # A logarithmic difference: half precision resolves small numbers well, and the start value stays exact.
        self.shift = nn.Parameter(torch.zeros(1)) if learned else None

    def forward(self) -> Tensor:
        """Scalar float32."""
        if self.shift is None:
            return torch.tensor(self.start)
        bounds = (math.log(bound / self.start) for bound in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
        shift: Tensor = _Clamp.apply(self.shift.float(), *bounds)  # type: ignore[no-untyped-call]
        return self.start * shift.squeeze(0).exp()


class CoarseModel(nn.Module):
    """Everything that coarse alignment trains: the encoder and the temperature of the loss.

    Attributes:
        encoder: Encodes content into coarse proxies.
        temperature: Softmax temperature.
    """

    def __init__(self, encoder: nn.Module, temperature: Temperature) -> None:
        """Combines both into one module."""
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs of `B` items -> coarse proxies `[B, d]` of unit norm, and the temperature."""
        return self.encoder(inputs)[0], self.temperature()


class _Clamp(torch.autograd.Function):
    """Clamp whose gradient at a bound passes only if it points inwards, so that a parameter cannot get stuck there."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, lowest: float, highest: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = lowest, highest
        return value.clamp(lowest, highest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (value,), (lowest, highest) = ctx.saved_tensors, ctx.bounds
        outward = ((value <= lowest) & (outer > 0)) | ((value >= highest) & (outer < 0))
        return outer.masked_fill(outward, 0.0), None, None
