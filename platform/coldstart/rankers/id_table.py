"""ID tables: item index to ID embedding, by a row of its own or by rows that items share.

Legend: `d` ID width, `V` vocabulary (items + 1; index 0 is OOV), `m` shared rows (`ranker.table.rows`).
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.config.recipe import Table

START_STD = 0.02


class IdTable(nn.Module, ABC):
    """Item index to ID embedding.

    Attributes:
        vocabulary: `V`; index 0 is the OOV row, which no kind of table shares with an item.
        width: `d`.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.width = width

    @abstractmethod
    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""

    @abstractmethod
    def start_from(self, rows: Tensor, scale: float) -> None:
        """Adds a first guess `[V, d]`, times `scale`, as far as the table can hold it."""

    @torch.no_grad()
    def rows(self) -> Tensor:
        """The whole table `[V, d]`, detached, row 0 included."""
        out: Tensor = self(torch.arange(self.vocabulary, device=next(self.parameters()).device))
        return out


class FullTable(IdTable):
    """A row of its own for every item: `V x d` numbers."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.weight = nn.Embedding(vocabulary, width).weight
        nn.init.normal_(self.weight, std=START_STD)

    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""
        return F.embedding(item_idx, self.weight, sparse=True)

    @torch.no_grad()
    def start_from(self, rows: Tensor, scale: float) -> None:
        """Adds the guess times `scale`."""
        self.weight += rows.to(self.weight) * scale


class HashedTable(IdTable):
    """`m` rows for all items, whatever their number: item `i` has row `(i - 1) % m` (Shi et al. 2020, section 2).

    Catalogue indices have no gaps, so the remainder is as even as a hash can be: of `n` items, each shares its row
    with `ceil(n / m) - 1` others or one less, and none does for `m >= n`. A random hash would leave `exp(-n / m)` of
    the rows empty (37 % at `m = n`). Items that share a row are one item to the ranker, and to a proxy's alignment.
    """

    def __init__(self, vocabulary: int, width: int, rows: int) -> None:
        super().__init__(vocabulary, width)
        self.weight = nn.Parameter(torch.randn(rows + 1, width) * START_STD)

    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""
        return F.embedding(self._row(item_idx), self.weight, sparse=True)

    @torch.no_grad()
    def start_from(self, rows: Tensor, scale: float) -> None:
        """Adds to each row what its items have on average."""
        row = self._row(torch.arange(self.vocabulary, device=rows.device))
        self.weight.add_(_mean_by(row, rows, len(self.weight)).to(self.weight), alpha=scale)

    def _row(self, item_idx: Tensor) -> Tensor:
        return torch.where(item_idx > 0, 1 + (item_idx - 1) % (len(self.weight) - 1), 0)


class QuotientRemainderTable(IdTable):
    """Two small tables; an item's row is the product of its quotient's and its remainder's (Shi et al. 2020, eq. 7).

    Item `i` takes quotient `(i - 1) // m` and remainder `(i - 1) % m`, a pair that no other item has, so rows differ
    although `m + (V - 1) / m` vectors are stored instead of `V`: least at `m = sqrt(V)`.
    """

    def __init__(self, vocabulary: int, width: int, rows: int) -> None:
        super().__init__(vocabulary, width)
        quotients = -(-(vocabulary - 1) // rows)
        # Quotients start about 1, or products of two small numbers would hardly have a gradient.
        self.quotient = nn.Parameter(1 + torch.randn(quotients + 1, width) * START_STD)
        self.remainder = nn.Parameter(torch.randn(rows + 1, width) * START_STD)

    def forward(self, item_idx: Tensor) -> Tensor:
        """`[...]` int64 to `[..., d]`."""
        quotient, remainder = self._pair(item_idx)
        return F.embedding(quotient, self.quotient) * F.embedding(remainder, self.remainder)

    @torch.no_grad()
    def start_from(self, rows: Tensor, scale: float) -> None:
        """Adds to each remainder what its items have on average; quotients stay as they are."""
        _, remainder = self._pair(torch.arange(self.vocabulary, device=rows.device))
        self.remainder.add_(_mean_by(remainder, rows, len(self.remainder)).to(self.remainder), alpha=scale)

    def _pair(self, item_idx: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the two tables; row 0 of both is the OOV item's alone."""
        known = item_idx > 0
        place, shared = (item_idx - 1).clamp(min=0), len(self.remainder) - 1
        return torch.where(known, 1 + place // shared, 0), torch.where(known, 1 + place % shared, 0)


def make_id_table(vocabulary: int, width: int, settings: Table) -> IdTable:
    """The table that the recipe's `ranker.table` asks for."""
    if settings.kind == "hashed":
        return HashedTable(vocabulary, width, settings.rows)
    if settings.kind == "quotient_remainder":
        return QuotientRemainderTable(vocabulary, width, settings.rows)
    return FullTable(vocabulary, width)


def _mean_by(group: Tensor, rows: Tensor, groups: int) -> Tensor:
    """Means `[groups, d]` of the rows of each group; zero where a group is empty."""
    total = rows.new_zeros(groups, rows.shape[1]).index_add_(0, group, rows)
    return total / torch.bincount(group, minlength=groups).clamp(min=1).unsqueeze(1)
