"""What a log of publications must do, wherever it is kept.

An item is published once, with its content; every release then needs a proxy of it in its own space. So contents are
kept once, proxies per space, and each item carries a revision: a proxy counts only for the revision it was made from.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from coldstart.config import digest
from coldstart.data.content import Content
from coldstart.data.features import Coded, Value

Vectors = npt.NDArray[np.float32]
Origin = Literal["api", "catalogue"]


@dataclass(frozen=True)
class Item:
    """An item as it was published.

    Attributes:
        item_id: The item.
        content: What it shows.
        features: Raw values by name; None keeps those it was published with before.
        published_at: Unix seconds: when it was handed in, or when its row of the catalogue says that it changed.
        origin: `api` if handed in over HTTP, `catalogue` if picked up from the user's tables.
        digest: Of content and features as they were handed in; see `digest_of`.
        revision: Place in the order of all publications; set by the log.
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


def digest_of(content: Content, features: Mapping[str, Value] | None) -> str:
    """What tells whether an item changed."""
    known = {name: value for name, value in (features or {}).items() if value is not None}
    return digest([content.digest, dict(sorted(known.items()))])


@dataclass(frozen=True)
class Proxy:
    """What stands for an item in one space.

    Attributes:
        vector: [d] the fine proxy.
        features: [C + N] codes, then numbers; None keeps those it had.
    """

    vector: Vectors
    features: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, vector: Vectors, coded: Coded | None) -> Self:
        """From a vector `[d]` and encoded features `[1, C]` and `[1, N]`."""
        return cls(vector, None if coded is None else np.concatenate([coded.categorical[0], coded.numeric[0]]))


@dataclass(frozen=True)
class Change:
    """News of one item in one space.

    Attributes:
        revision: Place in the order of all publications.
        item_id: The item.
        proxy: What stands for it now; None if it was withdrawn.
        at: Unix seconds at which its proxy was stored; None if it was withdrawn.
    """

    revision: int
    item_id: str
    proxy: Proxy | None
    at: float | None


@dataclass(frozen=True)
class Standing:
    """What a log knows of an item, without its content.

    Attributes:
        digest: Of what was published.
        origin: Who published it.
        published_at: Unix seconds.
        current: Whether this space has a proxy of this very revision.
        withdrawn: Whether it was deleted.
    """

    digest: str
    origin: Origin
    published_at: float
    current: bool
    withdrawn: bool


class Publications(ABC):
    """Published items, and the proxies of one space.

    Whatever a method has acknowledged survives the death of this process.
    """

    @abstractmethod
    def publish(self, entries: Sequence[tuple[Item, Proxy]]) -> list[int]:
        """Stores items and their proxies in place of earlier ones, all at once.

        A row of the catalogue gives way to what was published over HTTP later than the row changed, and does not
        bring back what was deleted.

        Returns:
            [n] their revisions; 0 for a row that gave way.
        """

    @abstractmethod
    def renew(self, entries: Sequence[tuple[Item, Proxy]]) -> None:
        """Stores proxies of items that `unread` gave; of one that was published anew meanwhile, nothing."""

    @abstractmethod
    def withdraw(self, item_id: str) -> None:
        """Forgets content and proxies of an item in every space, and remembers that it was deleted."""

    @abstractmethod
    def find(self, item_id: str) -> Item | None:
        """An item with its content; None if it was never published or was deleted."""

    @abstractmethod
    def unread(self, after: int, most: int) -> list[Item]:
        """Items of a revision above `after`, in that order, whose content has no proxy in this space yet."""

    @abstractmethod
    def standing(self) -> dict[str, Standing]:
        """What is known of every item that was published or withdrawn."""

    @abstractmethod
    def changes(self, since: int, most: int) -> list[Change]:
        """The latest change of each item that changed after revision `since`, in order, at most `most`."""

    @abstractmethod
    def stirred(self) -> bool:
        """Whether `changes` may have something new since the last call; costs microseconds."""

    @abstractmethod
    def mark(self, key: str) -> str | None:
        """A note of this space by key, as `set_mark` left it."""

    @abstractmethod
    def set_mark(self, key: str, value: str) -> None:
        """Keeps a note for this space."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of files and connections."""
