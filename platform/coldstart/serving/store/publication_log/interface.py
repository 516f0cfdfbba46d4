"""The interface of a publication log.

An item is published once, with its content; each release then needs its own row of the item. So the log keeps contents
once and rows per space. Each item has a revision, and a row is valid only for the revision it was made from.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from coldstart.config import digest
from coldstart.data.content import Content
from coldstart.data.features import EncodedFeatures, Value
from coldstart.data.item_table import ColumnSpecs, row_dtype
from coldstart.serving.store.row_layout import Row, check_layout, dump_columns

Origin = Literal["api", "catalog"]


@dataclass(frozen=True)
class PublishedItem:
    """An item as it was published.

    Attributes:
        item_id: The item.
        content: Image, title and text.
        features: Name -> raw value; None keeps the features of the previous publication.
        published_at: Unix seconds of the request, or of the change that the item's row of the catalog states.
        origin: `api` if published over HTTP, `catalog` if read from the user's tables.
        digest: Digest of content and features as published; see `item_digest`.
        revision: Sequence number among all changes; set by the log.
        ready_at: Unix seconds at which its row in this space was stored; None while it has none.
    """

    item_id: str
    content: Content
    features: Mapping[str, Value] | None
    published_at: float
    origin: Origin
    digest: str
    revision: int = 0
    ready_at: float | None = None


def item_digest(content: Content, features: Mapping[str, Value] | None) -> str:
    """Digest of an item; it changes whenever its content or a feature changes."""
    present = {name: value for name, value in (features or {}).items() if value is not None}
    return digest([content.digest, dict(sorted(present.items()))])


@dataclass(frozen=True)
class ItemRow:
    """The row of an item in one space.

    Attributes:
        values: One field per column of the release's adaptor.
        features: [C + N] codes, then numbers; None keeps the previous features.
    """

    values: Row
    features: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, values: Row, coded: EncodedFeatures | None) -> Self:
        """Adds encoded features `[1, C]` and `[1, N]`."""
        return cls(values, None if coded is None else np.concatenate([coded.categorical[0], coded.numeric[0]]))


class RowCodec:
    """Rows of one space as bytes, which are stored together with their columns.

    Args:
        columns: Columns of the release.
    """

    def __init__(self, columns: ColumnSpecs) -> None:
        self.columns, self.layout = columns, dump_columns(columns)
        self._dtype = row_dtype(columns)

    def encode(self, row: ItemRow) -> tuple[bytes, bytes | None]:
        """Bytes of the values, and of the features.

        Raises:
            ValueError: the row has other columns.
        """
        if row.values.dtype != self._dtype:
            raise ValueError(f"a row of {row.values.dtype} is not one of {self._dtype}")
        features = None if row.features is None else np.ascontiguousarray(row.features, "<f8").tobytes()
        return row.values.tobytes(), features

    def decode(self, item_id: str, layout: str, values: bytes, features: bytes | None) -> ItemRow:
        """The inverse of `encode`.

        Raises:
            UserError: the stored row of the item has other columns.
        """
        if layout != self.layout:
            check_layout(layout, self.columns, f"the stored row of item {item_id!r}")
        row: Row = np.frombuffer(values, self._dtype)[0]
        return ItemRow(row, None if features is None else np.frombuffer(features, "<f8"))


@dataclass(frozen=True)
class Change:
    """A change of one item in one space.

    Attributes:
        revision: Sequence number among all changes.
        item_id: The item.
        row: Its new row; None if it was withdrawn.
        stored_at: Unix seconds at which its row was stored; None if it was withdrawn.
    """

    revision: int
    item_id: str
    row: ItemRow | None
    stored_at: float | None


@dataclass(frozen=True)
class PublicationState:
    """The state of an item in the log, without its content.

    Attributes:
        digest: Digest of the published item.
        origin: `api` or `catalog`.
        published_at: Unix seconds.
        current: Whether this space has a row of the item's current revision.
        withdrawn: Whether it was deleted.
    """

    digest: str
    origin: Origin
    published_at: float
    current: bool
    withdrawn: bool


class PublicationLog(ABC):
    """Published items, and the rows of one space.

    When a method returns, its change is durable.
    """

    @abstractmethod
    def publish(self, entries: Sequence[tuple[PublishedItem, ItemRow]]) -> list[int]:
        """Stores items and their rows in one transaction; they replace earlier versions.

        A row of the catalog is skipped if the item was published over HTTP after the row changed, or was deleted.

        Returns:
            [n] revisions; 0 for a skipped row.
        """

    @abstractmethod
    def update_rows(self, entries: Sequence[tuple[PublishedItem, ItemRow]]) -> None:
        """Stores rows of items from `items_without_row`; skips an item that was published again meanwhile."""

    @abstractmethod
    def withdraw(self, item_id: str) -> None:
        """Deletes an item's content and its rows in every space, and records the deletion."""

    @abstractmethod
    def find(self, item_id: str) -> PublishedItem | None:
        """An item with its content; None if it is not published."""

    @abstractmethod
    def items_without_row(self, after: int, limit: int) -> list[PublishedItem]:
        """At most `limit` items with a revision above `after`, in order, that have no current row in this space."""

    @abstractmethod
    def states(self) -> dict[str, PublicationState]:
        """Item id -> state, of every item that was published or withdrawn."""

    @abstractmethod
    def changes(self, since: int, limit: int) -> list[Change]:
        """The latest change of each item that changed after revision `since`, in order, at most `limit`.

        Raises:
            UserError: a stored row has other columns than the release.
        """

    @abstractmethod
    def has_changes(self) -> bool:
        """Whether `changes` may return something new since the last call; takes microseconds."""

    @abstractmethod
    def get_value(self, key: str) -> str | None:
        """Reads a value of this space that `set_value` stored; None if there is none."""

    @abstractmethod
    def set_value(self, key: str, value: str) -> None:
        """Stores a value for this space."""

    @abstractmethod
    def close(self) -> None:
        """Closes files and connections."""
