"""Pairs of stage 2: a clicked item, and what the same user clicked next (MIM, section 3.3).

The paper pairs the image of a search with the item that was bought. Without a log of image searches, an item that the
user clicked stands for the query (interpretation, tag I).

Legend: `P` pairs, `V` items + 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldstart.data.batches import EventSequences, users_of
from coldstart.data.schema import TRAIN

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClickPairs:
    """Pairs of clicks of one user.

    Attributes:
        query: `[P]` item index of the earlier click.
        item: `[P]` item index of the next click.
        user: `[P]` user index.
    """

    query: Ints
    item: Ints
    user: Ints

    def __len__(self) -> int:
        return len(self.item)

    def take(self, chosen: NDArray[np.bool_]) -> "ClickPairs":
        """The pairs that `chosen` `[P]` marks."""
        return ClickPairs(self.query[chosen], self.item[chosen], self.user[chosen])

    @property
    def weights(self) -> NDArray[np.float32]:
        """`[P]` one over the number of the user's pairs, so that every user counts alike."""
        _, place, count = np.unique(self.user, return_inverse=True, return_counts=True)
        weights: NDArray[np.float32] = (1 / count[place.reshape(-1)]).astype(np.float32)
        return weights

    def groups(self, content: Ints) -> tuple[Ints, Ints]:
        """Groups of queries and of items, `[P, 4]` each (see `training.contrastive_trainer.Pairs`).

        The item of another pair is no negative if it has the content of the positive or of the query, if its query has
        the content of this query, or if its user is the same.

        Args:
            content: `[V]` group of items with the same content.
        """
        query, item = content[self.query], content[self.item]
        return (
            np.stack([item, query, query, self.user], axis=1),
            np.stack([item, item, query, self.user], axis=1),
        )


def next_click_pairs(sequences: EventSequences, *, window_s: int) -> ClickPairs:
    """Every train click with the user's next train click on another item, at most `window_s` seconds later."""
    clicked = (np.asarray(sequences.split) == TRAIN) & (np.asarray(sequences.label) == 1)
    events = np.flatnonzero(clicked)
    user = users_of(sequences, events).astype(np.int64)
    item = np.asarray(sequences.item_idx)[events].astype(np.int64)
    time = np.asarray(sequences.timestamp)[events]
    paired = (user[1:] == user[:-1]) & (time[1:] - time[:-1] <= window_s) & (item[1:] != item[:-1])
    return ClickPairs(item[:-1][paired], item[1:][paired], user[:-1][paired])
