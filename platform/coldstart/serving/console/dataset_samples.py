"""Sample users, titles and images for the console, from the dataset the release was trained on.

The dataset is in the run directory, which a gateway may not reach; `no_dataset_reason` then says why. Reads are
bounded: a few row groups of images and the first files of the sequences.
"""

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from coldstart.config import UserError, read_artifact
from coldstart.config.recipe import Data
from coldstart.data.content import Content, decode_image
from coldstart.data.dataset import Dataset, read_contents, read_item_features, read_sequences
from coldstart.data.features import EncodedFeatures
from coldstart.data.sequences import Sequences
from coldstart.evaluation.diagnostics.neighbors import thumbnail
from coldstart.serving.core.catalog import Catalog
from coldstart.serving.core.scoring import Ints, RankQuery
from coldstart.serving.store.row_layout import Row

USERS, SEED = 48, 17
_MAX_EVENTS, _MIN_EVENTS, _SYNTHETIC_EVENTS, _MAX_CLICKED = 200_000, 8, 20, 2
_SYNTHETIC_NOW = 1_700_000_000


@dataclass(frozen=True)
class SampleUser:
    """A user whose click probability for a new item the console shows.

    Attributes:
        user_id: Id in the dataset.
        recent_clicks: Titles of the items clicked last, latest first.
        history_ids: [L] items of the catalog.
        label: [L] 0 or 1.
        timestamp: [L] Unix seconds.
        features: [2, C] and [2, N] features of two unknown items, for this user and the context of the last event.
    """

    user_id: str
    recent_clicks: list[str]
    history_ids: list[str]
    label: Ints
    timestamp: Ints
    features: EncodedFeatures | None = None

    def query(self, row: Row, catalog: Catalog) -> RankQuery:
        """A query for two unknown items: one with `row` as its content, the other without content."""
        found = catalog.find([None, None], self.history_ids)
        found.set_rows({0: row})
        return RankQuery(
            history_idx=found.history_idx,
            history_label=self.label,
            history_time=self.timestamp,
            item_idx=found.item_idx,
            now=int(self.timestamp[-1]) + 1,
            rows=found.rows,
            item_row=found.item_row,
            history_row=found.history_row,
            features=self.features,
        )


class DatasetSamples:
    """Reads users, titles and images of the dataset of one release.

    Args:
        dataset: Directory of the dataset; `None` if unknown.
        fingerprint: Fingerprint of the dataset that the release was trained on.
        catalog: The release's catalog.
        data: The recipe's `data` section, for the limits of images.
    """

    def __init__(self, dataset: Path | None, fingerprint: str | None, catalog: Catalog, data: Data) -> None:
        self.catalog = catalog
        self._decode = partial(decode_image, max_bytes=data.max_image_bytes, max_pixels=data.max_image_pixels)
        self._lock = threading.Lock()
        self._users: list[SampleUser] | None = None
        self.no_dataset_reason: str | None = None
        """Why there is no dataset, as a sentence; `None` if there is one."""
        self.dataset = self._readable_dataset(dataset, fingerprint)

    @property
    def histories(self) -> Literal["dataset", "synthetic"]:
        """Origin of the users' histories."""
        return "synthetic" if self.dataset is None else "dataset"

    def users(self) -> list[SampleUser]:
        """The same users for every item. Blocks at the first call."""
        with self._lock:
            if self._users is None:
                self._users = self._synthetic_users() if self.dataset is None else self._sampled_users(self.dataset)
            return self._users

    def cards(self, item_ids: list[str]) -> list[tuple[str, str | None]]:
        """Title and thumbnail (a `data:` URI) of catalog items. Blocks."""
        if self.dataset is None:
            return [("", None) for _ in item_ids]
        index = np.array([self.catalog.index[item_id] for item_id in item_ids], np.int64)
        found = read_contents(self.dataset, index)
        return [(content.title or "", thumbnail(content.image, self._decode, side=240)) for content in found]

    def example(self) -> tuple[str, Content] | None:
        """A random item without train events; `None` if there is none. Blocks."""
        if self.dataset is None:
            return None
        dataset = Dataset.open(self.dataset, verify=False)
        cold = dataset.cold_items
        if not len(cold):
            return None
        chosen = int(np.random.default_rng().choice(cold))
        item_id: str = dataset.items(["item_id"])["item_id"][chosen - 1].as_py()
        return item_id, read_contents(self.dataset, np.array([chosen]))[0]

    def image(self, content: Content) -> str | None:
        """The image as a `data:` URI of moderate size."""
        return thumbnail(content.image, self._decode, side=512)

    def _readable_dataset(self, dataset: Path | None, fingerprint: str | None) -> Path | None:
        if dataset is None:
            self.no_dataset_reason = "No images: this server does not know the dataset's directory."
            return None
        try:
            artifact = read_artifact(dataset, "dataset", verify=False)
        except (UserError, OSError, ValueError, KeyError):
            self.no_dataset_reason = "No images: this server cannot read the dataset of this release."
            return None
        if artifact.fingerprint != fingerprint:
            self.no_dataset_reason = (
                "No images: the dataset on this server is not the one that this release was trained on."
            )
            return None
        return dataset

    def _sampled_users(self, dataset: Path) -> list[SampleUser]:
        schema = self.catalog.schema
        item = read_item_features(dataset, schema)
        events = read_sequences(dataset, schema, item, max_events=_MAX_EVENTS)
        long = np.flatnonzero(np.diff(events.offsets) >= _MIN_EVENTS)
        chosen = np.random.default_rng(SEED).permutation(long)[:USERS]
        if not len(chosen):
            self.no_dataset_reason = None
            return self._synthetic_users()
        clicked = [self._last_clicks(events, int(user)) for user in chosen]
        titles = read_contents(dataset, np.concatenate([*clicked, np.ones(1, np.int64)]))
        users, first, item_ids = [], 0, list(self.catalog.index)
        for user, clicks in zip(chosen.tolist(), clicked, strict=True):
            span = slice(events.offsets[user], events.offsets[user + 1])
            last = np.full(2, events.offsets[user + 1] - 1)
            users.append(
                SampleUser(
                    user_id=events.user_id[user],
                    recent_clicks=[
                        one.title or "an item without a title" for one in titles[first : first + len(clicks)]
                    ],
                    history_ids=[item_ids[item - 1] for item in events.item_idx[span]],
                    label=events.label[span].astype(np.int64),
                    timestamp=events.timestamp[span],
                    features=events.features.lookup(np.full(2, user), np.zeros(2, np.int64), last),
                )
            )
            first += len(clicks)
        return users

    def _last_clicks(self, events: Sequences, user: int) -> Ints:
        span = slice(events.offsets[user], events.offsets[user + 1])
        clicked = events.item_idx[span][events.label[span] == 1]
        return np.asarray(clicked[::-1][:_MAX_CLICKED], np.int64)

    def _synthetic_users(self) -> list[SampleUser]:
        """Users with random histories of items that the release was trained on."""
        item_ids = list(self.catalog.index)
        trained = np.flatnonzero(self.catalog.id_weight)
        rng = np.random.default_rng(SEED)
        times = _SYNTHETIC_NOW + 60 * np.arange(_SYNTHETIC_EVENTS, dtype=np.int64)
        return [
            SampleUser(
                user_id=f"synthetic user {number + 1}",
                recent_clicks=[],
                history_ids=[item_ids[item - 1] for item in rng.choice(trained, _SYNTHETIC_EVENTS)]
                if len(trained)
                else ["an unknown item"] * _SYNTHETIC_EVENTS,
                label=rng.integers(0, 2, _SYNTHETIC_EVENTS),
                timestamp=times,
            )
            for number in range(USERS)
        ]
