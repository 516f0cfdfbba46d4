"""Residual quantizers: a vector becomes a short list of codes, the semantic ID, which similar items share.

Level 1 takes the nearest row of its codebook; every further level does the same with what is left. Two kinds have one
interface: RQ-VAE, which quantizes a learned projection of the vectors, and RQ-KMeans, which quantizes them directly.

Sources: RQ-VAE after Lee et al. 2022, arXiv:2203.01941 **[R]**; the loss is SaviorRec's **[P figure]**
with weights of ours **[I]**. RQ-KMeans: OneRec reports it with a lower error than RQ-VAE **[T]**.

Legend: `B` rows, `N` items, `k` content width, `w` code width, `Lq` levels, `K` codes of a level.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.modules.info_nce import Temperature

MAX_CODES = 2**15 - 1
"""Codes of a level, so that a code and a number for "no code" fit into int16."""
ROWS_PER_TILE = 1024
"""The distances of a tile stay in the processor's cache."""
WEIGHTS, CONFIG = "quantizer.safetensors", "quantizer.json"


class ResidualQuantizer(nn.Module, ABC):
    """Maps vectors to codes, and codes back to vectors.

    Args:
        width: `k`.
        sizes: `K` of each level.
        code_width: `w`.

    Attributes:
        width: `k`.
        sizes: `K` of each level.
        codebooks: One `[K, w]` per level.

    Raises:
        UserError: a level has no code, or more than `MAX_CODES`.
    """

    kind: str

    def __init__(self, width: int, sizes: Sequence[int], code_width: int) -> None:
        super().__init__()
        for size in sizes:
            if not 1 <= size <= MAX_CODES:
                raise UserError(
                    f"a codebook of {size} codes cannot be stored: codes are int16, so 1 to {MAX_CODES} are allowed; "
                    "lower method.quantizer.sizes and add a level instead"
                )
        self.width, self.sizes, self.code_width = width, tuple(sizes), code_width
        self.codebooks = nn.ParameterList(torch.zeros(size, code_width) for size in sizes)

    @property
    def levels(self) -> int:
        """`Lq`."""
        return len(self.sizes)

    @abstractmethod
    def project(self, vectors: Tensor) -> Tensor:
        """What is quantized: `[n, k]` to `[n, w]`, float64, so that a code does not depend on the other rows."""

    @abstractmethod
    def reconstruct(self, quantized: Tensor) -> Tensor:
        """Sums of codebook rows `[n, w]` to vectors `[n, k]`."""

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Codes `[n, Lq]` int16, from 0, of vectors `[n, k]`.

        Each is the exact nearest row of its codebook (the first of equals), in any batch and any order of the rows.
        """
        found = torch.empty(len(vectors), self.levels, dtype=torch.int16, device=vectors.device)
        for start in range(0, len(vectors), ROWS_PER_TILE):
            rest = self.project(vectors[start : start + ROWS_PER_TILE])
            for level, codebook in enumerate(self.codebooks):
                codes = nearest_rows(rest, codebook.double())
                rest = rest - codebook.double()[codes]
                found[start : start + len(codes), level] = codes.to(torch.int16)
        return found

    def quantized(self, codes: Tensor) -> Tensor:
        """Sums `[n, w]` of the codebook rows of codes `[n, Lq]`."""
        total = torch.zeros(len(codes), self.code_width, device=codes.device)
        for level, codebook in enumerate(self.codebooks):
            total = total + codebook[codes[:, level].long()]
        return total

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors `[n, k]` of codes `[n, Lq]`."""
        return self.reconstruct(self.quantized(codes))

    def save(self, path: Path) -> None:
        """Writes the quantizer into an existing directory."""
        config = {"kind": self.kind, "width": self.width, "sizes": self.sizes, "code_width": self.code_width}
        (path / CONFIG).write_text(json.dumps(config, indent=2))
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, path / WEIGHTS
        )


class RQKMeans(ResidualQuantizer):
    """Quantizes the vectors themselves; `training.quantizer_training.fit_rq_kmeans` makes the codebooks."""

    kind = "rq_kmeans"

    def __init__(self, width: int, sizes: Sequence[int], code_width: int | None = None) -> None:
        super().__init__(width, sizes, code_width or width)

    def project(self, vectors: Tensor) -> Tensor:
        """The vectors."""
        return vectors.double()

    def residuals(self, vectors: Tensor, codes: Tensor) -> Tensor:
        """What the first levels leave of vectors `[n, k]`, by their codes `[n, levels]`."""
        for level in range(codes.shape[1]):
            vectors = vectors - self.codebooks[level][codes[:, level].long()]
        return vectors

    def reconstruct(self, quantized: Tensor) -> Tensor:
        """The sums."""
        return quantized


class RQVAE(ResidualQuantizer):
    """Quantizes an MLP's projection of the vectors; a second MLP maps sums of codebook rows back.

    Args:
        width: `k`.
        sizes: `K` of each level.
        code_width: `w`.
    """

    kind = "rq_vae"

    def __init__(self, width: int, sizes: Sequence[int], code_width: int) -> None:
        super().__init__(width, sizes, code_width)
        hidden = 2 * code_width
        self.encoder = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, code_width))
        self.decoder = nn.Sequential(nn.Linear(code_width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.temperature = Temperature(0.07, learned=True)

    def project(self, vectors: Tensor) -> Tensor:
        """The MLP's output, in float64."""
        weights = {name: weight.double() for name, weight in self.encoder.named_parameters()}
        out: Tensor = torch.func.functional_call(self.encoder, weights, (vectors.double(),))
        return out

    def reconstruct(self, quantized: Tensor) -> Tensor:
        """The second MLP's output."""
        out: Tensor = self.decoder(quantized)
        return out

    def forward(self, vectors: Tensor, *, commitment: float) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass, with the straight-through gradient from the decoder to the encoder.

        Args:
            vectors: [B, k].
            commitment: Weight of the term that keeps the projections near the codebooks (beta).

        Returns:
            Reconstructions `[B, k]`; the sum over levels of codebook and commitment terms, `[B]`; codes `[B, Lq]`.
        """
        start: Tensor = self.encoder(vectors)
        rest, total, terms = start, torch.zeros_like(start), []
        codes = []
        for codebook in self.codebooks:
            code = torch.cdist(rest.detach(), codebook.detach()).argmin(1)
            row = codebook[code]
            terms.append((rest.detach() - row).square().sum(1) + commitment * (rest - row.detach()).square().sum(1))
            # The gradient of a level's commitment reaches the encoder, not the codebooks of the levels before.
            rest, total = rest - row.detach(), total + row
            codes.append(code)
        straight_through = start + (total - start).detach()
        return self.decoder(straight_through), torch.stack(terms).sum(0), torch.stack(codes, 1)


def pair_contrast(
    first: Tensor, second: Tensor, first_item: Tensor, second_item: Tensor, temperature: Tensor
) -> Tensor:
    """InfoNCE of pairs, both ways: each row finds its partner among the partners of the batch.

    Partners that are the row's own item, or the item of its own partner, are no negatives.

    Args:
        first: [B, k].
        second: [B, k] the partners, row by row.
        first_item: [B] item indices.
        second_item: [B].
        temperature: Scalar.

    Returns:
        Scalar: the mean over rows and directions.
    """
    scores = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    losses = []
    for table, query, key in ((scores, first_item, second_item), (scores.T, second_item, first_item)):
        same = (key[None, :] == key[:, None]) | (key[None, :] == query[:, None])
        masked = table.masked_fill(same & ~own, float("-inf"))
        losses.append(F.cross_entropy(masked, torch.arange(len(masked), device=masked.device)))
    return torch.stack(losses).mean()


def nearest_rows(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index `[n]` of the nearest codebook row `[K, w]` of each vector `[n, w]`, both float64; the first of equals.

    Distances are computed in float32, and again in float64 where the two best are closer than its rounding error.
    """
    lengths = codebook.square().sum(1)
    coarse = torch.addmm(lengths.float(), vectors.float(), codebook.float().T, alpha=-2)
    best = coarse.min(dim=1)
    runner_up = coarse.scatter_(1, best.indices[:, None], float("inf")).amin(1)
    scale = (vectors.norm(dim=1) + lengths.max().sqrt()).square()
    error = 4 * (codebook.shape[1] + 4) * torch.finfo(torch.float32).eps * scale
    unsure = torch.nonzero((runner_up - best.values).double() <= error)[:, 0]
    found = best.indices
    for rows in torch.split(unsure, 64):
        exact = (vectors[rows, None, :] - codebook).square().sum(-1)
        found[rows] = exact.argmin(1)
    return found


KINDS: dict[str, type[RQKMeans] | type[RQVAE]] = {"rq_kmeans": RQKMeans, "rq_vae": RQVAE}
"""Quantizers by `method.quantizer.kind`."""


def load_quantizer(path: Path) -> ResidualQuantizer:
    """Loads a quantizer, in eval mode on the CPU, from a directory that `save` wrote.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no quantizer at {path}: {CONFIG} or {WEIGHTS} is missing; run the quantize stage first")
    config: dict[str, Any] = json.loads((path / CONFIG).read_text())
    try:
        quantizer = KINDS[config["kind"]](config["width"], config["sizes"], config["code_width"])
        quantizer.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a complete quantizer ({first}); run the quantize stage again") from error
    return quantizer.eval()
