"""The interface of a publication log.

An item is published once, with its content; each release then needs its own proxy of the item. So the log keeps
contents once and proxies per space. Each item has a revision, and a proxy is valid only for the revision it was made
from.
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

Vectors = npt.NDArray[np.float32]
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
        ready_at: Unix seconds at which its proxy in this space was stored; None while it has none.
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
class Proxy:
    """The proxy of an item in one space.

    Attributes:
        vector: [d] the fine proxy.
        features: [C + N] codes, then numbers; None keeps the previous features.
    """

    vector: Vectors
    features: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, vector: Vectors, coded: EncodedFeatures | None) -> Self:
        """Builds a proxy from a vector `[d]` and encoded features `[1, C]` and `[1, N]`."""
        return cls(vector, None if coded is None else np.concatenate([coded.categorical[0], coded.numeric[0]]))


@dataclass(frozen=True)
class Change:
    """A change of one item in one space.

    Attributes:
        revision: Sequence number among all changes.
        item_id: The item.
        proxy: Its new proxy; None if it was withdrawn.
        stored_at: Unix seconds at which its proxy was stored; None if it was withdrawn.
    """

    revision: int
    item_id: str
    proxy: Proxy | None
    stored_at: float | None


@dataclass(frozen=True)
class PublicationState:
    """The state of an item in the log, without its content.

    Attributes:
        digest: Digest of the published item.
        origin: `api` or `catalog`.
        published_at: Unix seconds.
        current: Whether this space has a proxy of the item's current revision.
        withdrawn: Whether it was deleted.
    """

    digest: str
    origin: Origin
    published_at: float
    current: bool
    withdrawn: bool


class PublicationLog(ABC):
    """Published items, and the proxies of one space.

    When a method returns, its change is durable.
    """

    @abstractmethod
    def publish(self, entries: Sequence[tuple[PublishedItem, Proxy]]) -> list[int]:
        """Stores items and their proxies in one transaction; they replace earlier versions.

        A row of the catalog is skipped if the item was published over HTTP after the row changed, or was deleted.

        Returns:
            [n] revisions; 0 for a skipped row.
        """

    @abstractmethod
    def update_proxies(self, entries: Sequence[tuple[PublishedItem, Proxy]]) -> None:
        """Stores proxies of items from `items_without_proxy`; skips an item that was published again meanwhile."""

    @abstractmethod
    def withdraw(self, item_id: str) -> None:
        """Deletes an item's content and its proxies in every space, and records the deletion."""

    @abstractmethod
    def find(self, item_id: str) -> PublishedItem | None:
        """An item with its content; None if it is not published."""

    @abstractmethod
    def items_without_proxy(self, after: int, limit: int) -> list[PublishedItem]:
        """At most `limit` items with a revision above `after`, in order, that have no current proxy in this space."""

    @abstractmethod
    def states(self) -> dict[str, PublicationState]:
        """Item id -> state, of every item that was published or withdrawn."""

    @abstractmethod
    def changes(self, since: int, limit: int) -> list[Change]:
        """The latest change of each item that changed after revision `since`, in order, at most `limit`."""

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
