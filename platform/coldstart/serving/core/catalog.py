"""Looks up items of a release: indices, rows, features, and what the scorer uses for each candidate."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.data.dataset import read_features
from coldstart.data.features import EncodedFeatures
from coldstart.data.item_table import Rows
from coldstart.rankers.storage import read_item_features, read_item_index
from coldstart.serving.api.schemas import SlotSource
from coldstart.serving.core.scorer_info import ScorerInfo
from coldstart.serving.store.item_store import Ints, ItemStore
from coldstart.serving.store.row_layout import Row

_SOURCES: list[SlotSource] = ["id", "blended", "proxy", "oov"]


@dataclass(frozen=True)
class FoundItems:
    """Candidates and history of one request, looked up.

    Attributes:
        item_idx: [T] catalog indices, 0 for items that are not in the catalog or were withdrawn.
        history_idx: [L] catalog indices, 0 for items that are not in the catalog.
        rows: [R] rows; row 0 is the unknown item.
        item_row: [T] numbers of the candidates' rows, 0 for a candidate without one.
        history_row: [L] the same for the history; zeros if the scorer does not read it.
    """

    item_idx: Ints
    history_idx: Ints
    rows: Rows
    item_row: Ints
    history_row: Ints

    def set_rows(self, rows: Mapping[int, Row]) -> None:
        """Sets the rows of candidates by their position."""
        for position, row in rows.items():
            self.rows[position + 1], self.item_row[position] = row, position + 1


class Catalog:
    """The items of a release.

    Args:
        directory: Has the ids and features of the catalog; see `Method.catalog_dir`.
        scorer: Facts about the release's scorer.
        store: Rows of the release.

    Attributes:
        index: Item id -> catalog index.
        id_weight: [V] how much of its ID row each item uses as a candidate.
    """

    def __init__(self, directory: Path, scorer: ScorerInfo, store: ItemStore) -> None:
        self.index = read_item_index(directory)
        self.id_weight = scorer.id_weight
        self.reads_history = scorer.reads_history
        self.store = store
        self.schema = read_features(directory)
        self._features = read_item_features(directory, self.schema)

    def indices(self, item_ids: Iterable[str | None]) -> Ints:
        """Catalog indices, 0 for unknown ids; the scorer itself maps untrained items to the OOV row."""
        index_of: Callable[[Any, int], int] = self.index.get
        return np.fromiter(map(index_of, item_ids, repeat(0)), np.int64)

    def item_ids(self, indices: Iterable[int]) -> list[str]:
        """Ids of catalog indices."""
        return [self._ids[index] for index in indices]

    @cached_property
    def _ids(self) -> dict[int, str]:
        return {index: item_id for item_id, index in self.index.items()}

    def find(self, candidate_ids: Sequence[str | None], history_ids: Sequence[str]) -> FoundItems:
        """Looks up the candidates and the history of a request.

        A published row replaces the catalog's, because it is newer. A withdrawn candidate is unknown. A withdrawn item
        in a history has no row either, but keeps its index: its ID row was learned from clicks, not from its content.

        Args:
            candidate_ids: [T]; `None` for a candidate whose row the caller sets.
            history_ids: [L]
        """
        self.store.catch_up()
        item_idx, history_idx = self.indices(candidate_ids), self.indices(history_ids)
        if self.reads_history and len(history_idx):
            found = self.store.find_rows([*candidate_ids, *history_ids], np.concatenate([item_idx, history_idx]))
        else:
            found = self.store.find_rows(candidate_ids, item_idx)
        targets = len(item_idx)
        for position in found.withdrawn:
            if position < targets:
                item_idx[position] = 0
        numbers = np.arange(1, len(found.rows)) * found.has_row
        history_row = numbers[targets:] if len(numbers) > targets else np.zeros_like(history_idx)
        return FoundItems(item_idx, history_idx, found.rows, numbers[:targets], history_row)

    def slot_sources(self, found: FoundItems) -> list[SlotSource]:
        """What the scorer uses for each candidate.

        `id` and `proxy` are its ID row or its row of the store alone, `blended` is both, `oov` neither.
        """
        weight, has_row = self.id_weight[found.item_idx], found.item_row > 0
        source = np.where(weight > 0, (has_row & (weight < 1)).astype(np.int64), np.where(has_row, 2, 3))
        return [_SOURCES[number] for number in source.tolist()]

    def features(
        self, item_ids: Sequence[str | None], indices: Ints, from_request: Mapping[int, EncodedFeatures]
    ) -> EncodedFeatures:
        """Encoded item features [T, C] and [T, N] of candidates, as of the last call of `find`.

        Features of a published item replace the catalog's, because they are newer.

        Args:
            item_ids: [T]; `None` for a candidate without an id.
            indices: [T] catalog indices, 0 for items that are not in the catalog.
            from_request: Position -> features [1, C] and [1, N] from the request.
        """
        codes, values = self._features.categorical[indices], self._features.numeric[indices]
        if not codes.shape[1] + values.shape[1]:
            return EncodedFeatures(codes, values)
        for position, item_id in enumerate(item_ids):
            published = None if item_id is None else self.store.features(item_id)
            if published is not None:
                codes[position], values[position] = np.split(published, [codes.shape[1]])
        for position, coded in from_request.items():
            codes[position], values[position] = coded.categorical[0], coded.numeric[0]
        return EncodedFeatures(codes, values)
