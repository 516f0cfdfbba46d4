"""InfoNCE, exact for any split of a batch into ranks, in linear memory: content to ID (IDProxy, stage 1), and pairs.

Content to ID: candidates are frozen ID rows, chosen before any content is encoded. So the loss of a row does not depend
on the proxies of other rows: every rank and pass computes the loss of its own rows against the candidates of the whole
batch, and the mean of their gradients equals the gradient of the whole batch.

Pairs: candidates are encoded in the same step, so the gradient also reaches them. Every rank computes the loss of its
own rows against gathered candidates (`training.contrastive_trainer`); passes would need gradient caching (Gao et al.
2021).

Legend: `B` rows, `C` candidates, `d` width, `M` masks.
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
    """Rows that serve as positives or as candidates.

    Attributes:
        rows: `[n, d]` of unit norm; ID rows, or encoded items.
        groups: `[n]` or `[n, M]` int64. A candidate is no negative of a row if any of its numbers equals the row's
            number at the same place: same content, same item, same user.
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
    frozen = (Targets(targets.rows.detach(), targets.groups, targets.log_q) for targets in (own, candidates))
    return pair_info_nce(coarse, *frozen, temperature=temperature)


def pair_info_nce(queries: Tensor, own: Targets, candidates: Targets, *, temperature: Tensor | float) -> Tensor:
    """Cross entropy of classifying the partner of each query among the candidates.

    Args:
        queries: `[B, d]` of unit norm.
        own: The partner of each query, `[B]`: the positive.
        candidates: `[C]` rows; those that share a group with the positive are excluded from the negatives.
        temperature: Softmax temperature, with gradient if it is learned.

    Returns:
        Losses `[B]`, float32 or wider. The gradient reaches queries, temperature, and the rows of `own` and
        `candidates` as far as they require one.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    own, candidates = _as(own, dtype), _as(candidates, dtype)
    losses: Tensor = _TiledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        queries.to(dtype) / temperature, own.rows, candidates.rows, own, candidates
    )
    return losses


def _as(targets: Targets, dtype: torch.dtype) -> Targets:
    log_q, groups = targets.log_q, targets.groups
    return Targets(
        targets.rows.to(dtype),
        groups if groups.dim() == 2 else groups.unsqueeze(1),
        None if log_q is None else log_q.to(dtype),
    )


class _TiledCrossEntropy(torch.autograd.Function):
    """Cross entropy of `queries @ rows.T` without storing that matrix: an online log-sum-exp over tiles of candidates.

    The gradient of a query is the softmax-weighted mean of the candidates minus its own row. It is as small as the
    query itself, so the forward pass accumulates it, as attention does with values. The gradient of candidates needs
    the final softmax, so backward computes the scores again, if candidates have a gradient at all.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, own_rows: Tensor, candidate_rows: Tensor, own: Targets, candidates: Targets
    ) -> Tensor:
        own, candidates = _detached(own), _detached(candidates)
        losses = queries.new_empty(len(queries))
        gradient = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        for rows in _tiles(len(queries), ROWS_PER_TILE):
            positives = _part(own, rows)
            losses[rows], mean = _sweep(queries[rows], positives, candidates, weigh=gradient is not None)
            if gradient is not None:
                gradient[rows] = mean - positives.rows
        ctx.targets = own, candidates
        ctx.save_for_backward(gradient, queries, losses)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        gradient, queries, losses = ctx.saved_tensors
        own, candidates = ctx.targets
        of_queries = None if gradient is None else outer[:, None] * gradient
        of_own = of_candidates = None
        if ctx.needs_input_grad[1]:
            of_own = queries * (outer * torch.expm1(-losses))[:, None]
        if ctx.needs_input_grad[2]:
            of_candidates = torch.zeros_like(candidates.rows)
            for rows in _tiles(len(queries), ROWS_PER_TILE):
                positives, inner = _part(own, rows), queries[rows]
                total = losses[rows] + _positive(inner, positives)
                for columns in _tiles(len(candidates.rows), CANDIDATES_PER_TILE):
                    shares = _scores(inner, positives, _part(candidates, columns)).sub_(total[:, None]).exp_()
                    of_candidates[columns].addmm_(shares.mul_(outer[rows, None]).T, inner)
        return of_queries, of_own, of_candidates, None, None


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _detached(targets: Targets) -> Targets:
    return Targets(targets.rows.detach(), targets.groups, targets.log_q)


def _part(targets: Targets, rows: slice) -> Targets:
    return Targets(targets.rows[rows], targets.groups[rows], None if targets.log_q is None else targets.log_q[rows])


def _positive(queries: Tensor, own: Targets) -> Tensor:
    """Scores `[b]` of the positives."""
    positive = (queries * own.rows).sum(dim=1)
    return positive if own.log_q is None else positive - own.log_q


def _scores(queries: Tensor, own: Targets, candidates: Targets) -> Tensor:
    """Scores `[b, c]` of a tile; minus infinity for candidates that are no negatives."""
    scores = queries @ candidates.rows.T
    if candidates.log_q is not None:
        scores -= candidates.log_q
    for number, others in zip(own.groups.T, candidates.groups.T, strict=True):
        scores.masked_fill_(number[:, None] == others, -math.inf)
    return scores


def _sweep(queries: Tensor, own: Targets, candidates: Targets, *, weigh: bool) -> tuple[Tensor, Tensor]:
    """Losses `[b]` of one tile of rows, and their softmax-weighted means of candidate rows `[b, d]`."""
    positive = _positive(queries, own)
    peak, total, mean = positive, torch.ones_like(positive), own.rows
    for columns in _tiles(len(candidates.rows), CANDIDATES_PER_TILE):
        part = _part(candidates, columns)
        scores = _scores(queries, own, part)
        new_peak = torch.maximum(peak, scores.amax(dim=1))
        shrunk = (peak - new_peak).exp()
        scores.sub_(new_peak[:, None]).exp_()
        total = total * shrunk + scores.sum(dim=1)
        if weigh:
            mean = torch.addmm(mean * shrunk[:, None], scores, part.rows)
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
