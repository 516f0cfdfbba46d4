"""Sample users, titles and pictures for the console, from the dataset that the release was made from.

The dataset lies where the run wrote it, which a gateway may or may not reach: all that is read here can be missing, and
`why` then says so. Reads are bounded: a few row groups of pictures, the first parts of the sequences.
"""

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from coldstart.config import UserError, read_artifact
from coldstart.config.recipe import Data
from coldstart.data.content import Content, decode_picture
from coldstart.data.dataset import Dataset, read_contents, read_item_features, read_sequences
from coldstart.data.features import Coded
from coldstart.data.sequences import Sequences
from coldstart.evaluation.neighbours import thumbnail
from coldstart.serving.catalogue import Catalogue
from coldstart.serving.proxy_store import Vectors
from coldstart.serving.scoring import Ints, RankQuery

USERS, SEED = 48, 17
_MOST_EVENTS, _FEWEST_EVENTS, _MADE_UP_EVENTS, _LIKED = 200_000, 8, 20, 2
_MADE_UP_NOW = 1_700_000_000


@dataclass(frozen=True)
class SampleUser:
    """One history that new items are ranked after.

    Attributes:
        user_id: As the dataset has it.
        liked: Titles of what was clicked last, latest first.
        item_idx: [L] catalogue indices.
        label: [L] 0 or 1.
        timestamp: [L] Unix seconds.
        features: [2, C] and [2, N] of two unknown items, for this user after the last event.
    """

    user_id: str
    liked: list[str]
    item_idx: Ints
    label: Ints
    timestamp: Ints
    features: Coded | None = None

    def query(self, proxy: Vectors) -> RankQuery:
        """Two unknown items: one ranked by `proxy` [d], the other by the OOV row."""
        return RankQuery(
            history_idx=self.item_idx,
            history_label=self.label,
            history_time=self.timestamp,
            item_idx=np.zeros(2, np.int64),
            now=int(self.timestamp[-1]) + 1,
            positions=np.zeros(1, np.int64),
            proxies=proxy[None],
            features=self.features,
        )


class Samples:
    """What the console shows of one release's dataset.

    Args:
        dataset: Directory of the dataset; None if nobody told.
        fingerprint: Of the dataset the release was made from.
        catalogue: Of the release.
        data: Limits of pictures.
    """

    def __init__(self, dataset: Path | None, fingerprint: str | None, catalogue: Catalogue, data: Data) -> None:
        self.catalogue = catalogue
        self._decode = partial(decode_picture, max_bytes=data.max_picture_bytes, max_pixels=data.max_picture_pixels)
        self._lock = threading.Lock()
        self._users: list[SampleUser] | None = None
        self.why: str | None = None
        """Why there is no dataset, for people; None if there is one."""
        self.dataset = self._found(dataset, fingerprint)

    @property
    def histories(self) -> Literal["dataset", "made up"]:
        """`dataset`, or `made up` where there is none."""
        return "made up" if self.dataset is None else "dataset"

    def users(self) -> list[SampleUser]:
        """The same few users for every item; blocks at first."""
        with self._lock:
            if self._users is None:
                self._users = self._made_up() if self.dataset is None else self._drawn(self.dataset)
            return self._users

    def cards(self, item_ids: list[str]) -> list[tuple[str, str | None]]:
        """Title, and thumbnail as a `data:` URI, of items of the catalogue; blocks."""
        if self.dataset is None:
            return [("", None) for _ in item_ids]
        index = np.array([self.catalogue.index[item_id] for item_id in item_ids], np.int64)
        found = read_contents(self.dataset, index)
        return [(content.title or "", thumbnail(content.picture, self._decode, side=240)) for content in found]

    def example(self) -> tuple[str, Content] | None:
        """An item without a train event, drawn anew each time; None if there is none; blocks."""
        if self.dataset is None:
            return None
        dataset = Dataset.open(self.dataset, verify=False)
        cold = np.flatnonzero(dataset.train_counts[1:] == 0) + 1
        if not len(cold):
            return None
        chosen = int(np.random.default_rng().choice(cold))
        item_id: str = dataset.items(["item_id"])["item_id"][chosen - 1].as_py()
        return item_id, read_contents(self.dataset, np.array([chosen]))[0]

    def picture(self, content: Content) -> str | None:
        """A content's picture as a `data:` URI of moderate size."""
        return thumbnail(content.picture, self._decode, side=512)

    def _found(self, dataset: Path | None, fingerprint: str | None) -> Path | None:
        if dataset is None:
            self.why = "No pictures: this server was not told where the dataset lies."
            return None
        try:
            artifact = read_artifact(dataset, "dataset", verify=False)
        except (UserError, OSError, ValueError, KeyError):
            self.why = "No pictures: the dataset of this release is not within reach of this server."
            return None
        if artifact.fingerprint != fingerprint:
            self.why = "No pictures: the dataset on this server is not the one that this release was made from."
            return None
        return dataset

    def _drawn(self, dataset: Path) -> list[SampleUser]:
        schema = self.catalogue.schema
        item = read_item_features(dataset, schema)
        events = read_sequences(dataset, schema, item, most_events=_MOST_EVENTS)
        long = np.flatnonzero(np.diff(events.offsets) >= _FEWEST_EVENTS)
        chosen = np.random.default_rng(SEED).permutation(long)[:USERS]
        if not len(chosen):
            self.why = None
            return self._made_up()
        clicked = [self._clicked_last(events, int(user)) for user in chosen]
        titles = read_contents(dataset, np.concatenate([*clicked, np.ones(1, np.int64)]))
        users, first = [], 0
        for user, liked in zip(chosen.tolist(), clicked, strict=True):
            span = slice(events.offsets[user], events.offsets[user + 1])
            last = np.full(2, events.offsets[user + 1] - 1)
            users.append(
                SampleUser(
                    user_id=events.user_id[user],
                    liked=[one.title or "an item without a title" for one in titles[first : first + len(liked)]],
                    item_idx=events.item_idx[span].astype(np.int64),
                    label=events.label[span].astype(np.int64),
                    timestamp=events.timestamp[span],
                    features=events.features.at(np.full(2, user), np.zeros(2, np.int64), last),
                )
            )
            first += len(liked)
        return users

    def _clicked_last(self, events: Sequences, user: int) -> Ints:
        span = slice(events.offsets[user], events.offsets[user + 1])
        clicked = events.item_idx[span][events.label[span] == 1]
        return np.asarray(clicked[::-1][:_LIKED], np.int64)

    def _made_up(self) -> list[SampleUser]:
        """Histories that nobody had, of items the ranker was trained on."""
        known = np.flatnonzero(self.catalogue.id_shares)
        rng = np.random.default_rng(SEED)
        times = _MADE_UP_NOW + 60 * np.arange(_MADE_UP_EVENTS, dtype=np.int64)
        return [
            SampleUser(
                user_id=f"made-up user {number + 1}",
                liked=[],
                item_idx=rng.choice(known, _MADE_UP_EVENTS) if len(known) else np.zeros_like(times),
                label=rng.integers(0, 2, _MADE_UP_EVENTS),
                timestamp=times,
            )
            for number in range(USERS)
        ]
