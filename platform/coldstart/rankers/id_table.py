"""ID tables: item index to ID embedding, with one row per item or with rows that items share.

Legend: `d` ID width, `V` vocabulary (items + 1; index 0 is OOV), `m` shared rows (`ranker.table.rows`).
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.config.recipe import Table

INIT_STD = 0.02


class IdTable(nn.Module, ABC):
    """Item index to ID embedding.

    Attributes:
        vocab_size: `V`; index 0 is the OOV row, which is never shared with an item.
        embedding_dim: `d`.
    """

    def __init__(self, vocab_size: int, embedding_dim: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim

    @abstractmethod
    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""

    @abstractmethod
    def init_from(self, rows: Tensor, scale: float) -> None:
        """Adds initial embeddings `[V, d]`, times `scale`, as far as the table can represent them."""

    @torch.no_grad()
    def rows(self) -> Tensor:
        """The whole table `[V, d]`, detached, including row 0."""
        out: Tensor = self(torch.arange(self.vocab_size, device=next(self.parameters()).device))
        return out


class FullTable(IdTable):
    """One row per item: `V x d` numbers."""

    def __init__(self, vocab_size: int, embedding_dim: int) -> None:
        super().__init__(vocab_size, embedding_dim)
        self.weight = nn.Embedding(vocab_size, embedding_dim).weight
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""
        return F.embedding(item_idx, self.weight, sparse=True)

    @torch.no_grad()
    def init_from(self, rows: Tensor, scale: float) -> None:
        """Adds `rows` times `scale`."""
        self.weight += rows.to(self.weight) * scale


class HashedTable(IdTable):
    """A fixed number `m` of rows for all items: item `i` has row `(i - 1) % m` (Shi et al. 2020, section 2).

    Catalog indices have no gaps, so the remainder spreads items evenly: each of `n` items shares its row with
    `ceil(n / m) - 1` others or one fewer, and with none if `m >= n`. A random hash would leave `exp(-n / m)` of the
    rows empty (37 % at `m = n`). The ranker and the alignment cannot distinguish items that share a row.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, rows: int) -> None:
        super().__init__(vocab_size, embedding_dim)
        self.weight = nn.Parameter(torch.randn(rows + 1, embedding_dim) * INIT_STD)

    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""
        return F.embedding(self._row(item_idx), self.weight, sparse=True)

    @torch.no_grad()
    def init_from(self, rows: Tensor, scale: float) -> None:
        """Adds to each row the mean of its items' initial embeddings, times `scale`."""
        row = self._row(torch.arange(self.vocab_size, device=rows.device))
        self.weight.add_(_mean_by(row, rows, len(self.weight)).to(self.weight), alpha=scale)

    def _row(self, item_idx: Tensor) -> Tensor:
        return torch.where(item_idx > 0, 1 + (item_idx - 1) % (len(self.weight) - 1), 0)


class QuotientRemainderTable(IdTable):
    """Two small tables; an item's embedding is the product of its quotient row and its remainder row.

    Shi et al. 2020, equation 7. Item `i` has quotient `(i - 1) // m` and remainder `(i - 1) % m`. The pair is unique,
    so embeddings differ although only `m + (V - 1) / m` vectors are stored instead of `V`; the minimum is at
    `m = sqrt(V)`.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, rows: int) -> None:
        super().__init__(vocab_size, embedding_dim)
        quotients = -(-(vocab_size - 1) // rows)
        # Quotients start near 1: a product of two small numbers would have almost no gradient.
        self.quotient = nn.Parameter(1 + torch.randn(quotients + 1, embedding_dim) * INIT_STD)
        self.remainder = nn.Parameter(torch.randn(rows + 1, embedding_dim) * INIT_STD)

    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""
        quotient, remainder = self._pair(item_idx)
        return F.embedding(quotient, self.quotient) * F.embedding(remainder, self.remainder)

    @torch.no_grad()
    def init_from(self, rows: Tensor, scale: float) -> None:
        """Adds to each remainder row the mean of its items' initial embeddings, times `scale`; quotients stay."""
        _, remainder = self._pair(torch.arange(self.vocab_size, device=rows.device))
        self.remainder.add_(_mean_by(remainder, rows, len(self.remainder)).to(self.remainder), alpha=scale)

    def _pair(self, item_idx: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers in the two tables; row 0 of both belongs to the OOV item alone."""
        is_item = item_idx > 0
        position, m = (item_idx - 1).clamp(min=0), len(self.remainder) - 1
        return torch.where(is_item, 1 + position // m, 0), torch.where(is_item, 1 + position % m, 0)


def make_id_table(vocab_size: int, embedding_dim: int, settings: Table) -> IdTable:
    """Creates the table that the recipe selects in `ranker.table`."""
    if settings.kind == "hashed":
        return HashedTable(vocab_size, embedding_dim, settings.rows)
    if settings.kind == "quotient_remainder":
        return QuotientRemainderTable(vocab_size, embedding_dim, settings.rows)
    return FullTable(vocab_size, embedding_dim)


def _mean_by(group: Tensor, rows: Tensor, groups: int) -> Tensor:
    """Mean row `[groups, d]` of each group; zero for an empty group."""
    total = rows.new_zeros(groups, rows.shape[1]).index_add_(0, group, rows)
    return total / torch.bincount(group, minlength=groups).clamp(min=1).unsqueeze(1)
