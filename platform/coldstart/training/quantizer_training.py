"""Trains residual quantizers on a stream of content vectors, in one process: the result has no world size.

A quantizer is small (RQ-VAE at width 128 has 0.1 million weights), so that one process fits a million items in minutes.
Vectors are read in chunks from the memory-mapped item table.

Legend: `N` items, `V` rows of the table (items + 1), `k` content width, `w` code width, `K` codes, `P` pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coldstart.config import UserError
from coldstart.modules.residual_quantizer import (
    ROWS_PER_TILE,
    RQVAE,
    ResidualQuantizer,
    RQKMeans,
    nearest_rows,
    pair_contrast,
)

Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int, dict[str, float]], None]
"""Called with finished epochs, all epochs, and figures of the last one."""
INIT_ROWS = 16_384
"""Vectors of which codebooks are initialized by k-means, and among which all-equal vectors are found."""


@dataclass(frozen=True, kw_only=True)
class QuantizerSettings:
    """Training of a quantizer.

    Attributes:
        sizes: `K` of each level.
        epochs: Passes over the items.
        min_steps: A small catalog is passed more often, until there are so many steps; RQ-VAE only.
        batch: Items per step.
        seed: For order, initialization and resets.
        code_width: `w`, RQ-VAE only.
        learning_rate: RQ-VAE only.
        commitment: Weight (beta) of the commitment term, RQ-VAE only.
        contrast: Weight of the contrastive loss of decoded pairs, RQ-VAE only.
    """

    sizes: tuple[int, ...]
    epochs: int
    batch: int
    seed: int
    min_steps: int = 0
    code_width: int = 64
    learning_rate: float = 1e-3
    commitment: float = 0.25
    contrast: float = 1.0


@dataclass(frozen=True)
class QuantizerData:
    """What a quantizer is trained on.

    Attributes:
        vectors: [V, k] content of all items.
        rows: [N] items in training; cold items are not among them, so that their codes show what is served.
        trigger: [P] first item of each pair.
        target: [P] second item.
    """

    vectors: Tensor
    rows: Ints
    trigger: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    target: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def take(self, items: Ints) -> Tensor:
        """Vectors `[n, k]`, float32."""
        return self.vectors[torch.from_numpy(items)].float()

    def chunks(self, size: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Tensor]]:
        """Positions in `rows` and vectors of all items in random order, `size` at a time."""
        order = rng.permutation(len(self.rows))
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            yield positions, self.take(self.rows[positions])


def check_vectors(data: QuantizerData, sizes: tuple[int, ...]) -> None:
    """Checks that the vectors can be quantized.

    Raises:
        UserError: there are fewer items than codes, a vector is not finite, or too few vectors are distinct.
    """
    largest = max(sizes)
    if len(data.rows) < largest:
        raise UserError(
            f"a codebook of {largest} codes needs as many items, but only {len(data.rows)} have train events; lower "
            "method.quantizer.sizes"
        )
    for start in range(0, len(data.rows), INIT_ROWS):
        rows = data.rows[start : start + INIT_ROWS]
        vectors = data.take(rows)
        broken = torch.nonzero(~vectors.isfinite().all(1))[:, 0]
        if len(broken):
            raise UserError(
                f"the content vector of item {int(rows[broken[0]])} is not finite ({len(broken)} of {len(rows)} items "
                "checked so far); check its image and text, or the encoder that made it"
            )
    sample = data.take(np.random.default_rng(0).permutation(data.rows)[:INIT_ROWS]).numpy()
    distinct = len({row.tobytes() for row in sample})
    if distinct < largest and distinct < len(sample):
        raise UserError(
            f"the content vectors of {len(sample)} items have only {distinct} distinct values, too few for "
            f"{largest} codes; check that the encoder reads the content, or lower method.quantizer.sizes"
        )


@torch.no_grad()
def fit_rq_kmeans(data: QuantizerData, settings: QuantizerSettings, progress: Progress) -> RQKMeans:
    """Fits one k-means (scikit-learn's MiniBatchKMeans) per level to what the levels before leave.

    Raises:
        UserError: see `check_vectors`.
    """
    check_vectors(data, settings.sizes)
    quantizer = RQKMeans(data.vectors.shape[1], settings.sizes)
    # Codes of the levels before, since residuals of all items may not fit into memory.
    codes = torch.empty(len(data.rows), 0, dtype=torch.int16)
    passes = settings.epochs * quantizer.levels
    for level in range(quantizer.levels):
        rng = np.random.default_rng((settings.seed, level))
        means = _k_means(settings, level)
        for epoch in range(settings.epochs):
            for positions, vectors in data.chunks(max(settings.batch, 4 * settings.sizes[level]), rng):
                if len(vectors) >= settings.sizes[level]:
                    means.partial_fit(quantizer.residuals(vectors, codes[positions]).numpy())
            progress(level * settings.epochs + epoch + 1, passes, {"inertia": float(means.inertia_)})
        centers = torch.from_numpy(means.cluster_centers_)
        quantizer.codebooks[level].data.copy_(centers)
        if level + 1 < quantizer.levels:
            found = torch.empty(len(codes), 1, dtype=codes.dtype)
            for start in range(0, len(codes), ROWS_PER_TILE):
                tile = slice(start, start + ROWS_PER_TILE)
                rest = quantizer.residuals(data.take(data.rows[tile]), codes[tile])
                found[tile, 0] = nearest_rows(rest.double(), centers.double()).to(codes.dtype)
            codes = torch.cat([codes, found], dim=1)
    return quantizer.requires_grad_(False).eval()


def _k_means(settings: QuantizerSettings, level: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(settings.sizes[level], n_init=1, random_state=settings.seed + level)


def fit_rq_vae(data: QuantizerData, settings: QuantizerSettings, progress: Progress) -> RQVAE:
    """Trains an RQ-VAE: reconstruction, codebook and commitment terms, and the contrast of decoded pairs.

    `L = |sg(m) - mhat|^2 + sum_l (|sg(r) - C|^2 + beta |r - sg(C)|^2) + contrast x InfoNCE(mhat_a, mhat_b)` **[I]**.
    Codebooks start at k-means centers. A code that no item of an epoch has is moved to the residual of a random item.

    Raises:
        UserError: see `check_vectors`.
    """
    check_vectors(data, settings.sizes)
    torch.manual_seed(settings.seed)
    quantizer = RQVAE(data.vectors.shape[1], settings.sizes, settings.code_width)
    _init_codebooks(quantizer, data, settings)
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(settings.seed)
    epochs = max(settings.epochs, -(-settings.min_steps // -(-len(data.rows) // settings.batch)))
    for epoch in range(epochs):
        used = [torch.zeros(size, dtype=torch.bool) for size in settings.sizes]
        total, steps = {"reconstruction": 0.0, "contrast": 0.0}, 0
        for _, vectors in data.chunks(settings.batch, rng):
            reconstruction, contrast, codes = _step(
                quantizer, optimizer, vectors, _draw_pairs(data, settings, rng), settings
            )
            for level, seen in enumerate(used):
                seen[codes[:, level]] = True
            total["reconstruction"] += reconstruction
            total["contrast"] += contrast
            steps += 1
        # After the last epoch, a new code would serve items that it was never trained on.
        if epoch + 1 < epochs:
            reset_dead_codes(quantizer, used, data.take(rng.choice(data.rows, settings.batch)), rng)
        progress(epoch + 1, epochs, {name: value / steps for name, value in total.items()})
    return quantizer.requires_grad_(False).eval()


@dataclass(frozen=True)
class _PairBatch:
    """Pairs of a step: item indices [n] and vectors [n, k] of both sides."""

    trigger: Ints
    target: Ints
    first: Tensor
    second: Tensor


def _draw_pairs(data: QuantizerData, settings: QuantizerSettings, rng: np.random.Generator) -> _PairBatch:
    """The pairs of a step; none if the data has none, or the loss does not use them."""
    count = min(settings.batch, len(data.trigger)) if settings.contrast else 0
    chosen = rng.choice(len(data.trigger), count, replace=False) if count else np.zeros(0, np.int64)
    trigger, target = data.trigger[chosen], data.target[chosen]
    return _PairBatch(trigger, target, data.take(trigger), data.take(target))


def _step(
    quantizer: RQVAE,
    optimizer: torch.optim.Optimizer,
    vectors: Tensor,
    pairs: _PairBatch,
    settings: QuantizerSettings,
) -> tuple[float, float, Tensor]:
    """One step; returns the mean reconstruction error, the contrastive loss, and the codes of `vectors`."""
    everything = torch.cat([vectors, pairs.first, pairs.second])
    decoded, terms, codes = quantizer(everything, commitment=settings.commitment)
    errors = (everything - decoded).square().sum(1)
    loss = (errors + terms).mean()
    contrast = loss.new_zeros(())
    if len(pairs.trigger):
        _, first, second = decoded.split([len(vectors), len(pairs.first), len(pairs.second)])
        items = (torch.from_numpy(pairs.trigger), torch.from_numpy(pairs.target))
        contrast = pair_contrast(first, second, *items, quantizer.temperature())
    optimizer.zero_grad(set_to_none=True)
    (loss + settings.contrast * contrast).backward()
    optimizer.step()
    return float(errors[: len(vectors)].detach().mean()), float(contrast.detach()), codes[: len(vectors)]


@torch.no_grad()
def _init_codebooks(quantizer: RQVAE, data: QuantizerData, settings: QuantizerSettings) -> None:
    rng = np.random.default_rng((settings.seed, 1))
    rest = quantizer.encoder(next(data.chunks(INIT_ROWS, rng))[1])
    for level, codebook in enumerate(quantizer.codebooks):
        means = _k_means(settings, level).fit(rest.numpy())
        codebook.copy_(torch.from_numpy(means.cluster_centers_))
        rest = rest - codebook[torch.from_numpy(means.labels_).long()]


@torch.no_grad()
def reset_dead_codes(
    quantizer: ResidualQuantizer, used: list[Tensor], vectors: Tensor, rng: np.random.Generator
) -> None:
    """Moves codes that no item has to the residuals of random items, so that they are used again.

    Args:
        quantizer: Changed in place.
        used: Per level [K] bool.
        vectors: [n, k] items whose residuals are taken.
        rng: Chooses among them.
    """
    rest = quantizer.project(vectors).float()
    for codebook, seen in zip(quantizer.codebooks, used, strict=True):
        dead = torch.nonzero(~seen)[:, 0]
        if len(dead):
            chosen = rng.choice(len(rest), len(dead), replace=len(dead) > len(rest))
            codebook[dead] = rest[torch.from_numpy(chosen)]
        rest = rest - codebook[torch.cdist(rest, codebook).argmin(1)]


@torch.no_grad()
def relative_error(quantizer: ResidualQuantizer, data: QuantizerData, rows: Ints) -> float:
    """Squared reconstruction error over the squared distance from the mean, of items `rows`; 0 is perfect."""
    vectors = data.take(rows)
    error = (vectors - quantizer.decode(quantizer.encode(vectors))).square().sum()
    return float(error / (vectors - vectors.mean(0)).square().sum().clamp(min=1e-12))
