"""Attributes of evaluated rows, by which the search for weak slices groups them.

Legend: `n` rows, `N` items.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow.dataset as pads
from numpy.typing import NDArray

from coldstart.data.dataset import Dataset
from coldstart.data.features import Categorical
from coldstart.data.schema import TRAIN
from coldstart.evaluation.diagnostics.slice_finder import UNKNOWN, SliceAttribute, binned_attribute
from coldstart.evaluation.protocol.scored_rows import ScoredRows

DAY = 86_400
VALUES = 12
"""Only the most frequent values of a categorical feature form groups."""


def slice_attributes(dataset: Dataset, rows: ScoredRows) -> list[SliceAttribute]:
    """Attributes of the rows: of their item, of their user, and their position in the user's history.

    Args:
        dataset: The dataset of the rows.
        rows: In any order.
    """
    sequences = dataset.sequences
    before = rows.event - sequences.offsets[rows.user_idx]
    owner = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    activity = np.bincount(owner[sequences.split == TRAIN], minlength=len(sequences.offsets) - 1)
    return [
        binned_attribute("train events of the item", rows.train_events, (1, 10, 100)),
        binned_attribute("age of the item", rows.age_s / DAY, (1, 7, 30), " d"),
        binned_attribute("train events of the user", activity[rows.user_idx], (1, 20, 100)),
        binned_attribute("events before the row", before, (10, 50, 200)),
        *_content(dataset, rows.item_idx),
        *_categorical(dataset, rows),
    ]


def _content(dataset: Dataset, item: NDArray[np.integer]) -> Iterator[SliceAttribute]:
    """Whether the item has an image and a text. Images are tested for presence only, not loaded."""
    table = pads.dataset(dataset.artifact.path / "items", format="parquet").to_table(
        columns={"item_idx": pads.field("item_idx")} | {name: pads.field(name).is_valid() for name in ("image", "text")}
    )
    at = np.asarray(table["item_idx"])
    for name in ("image", "text"):
        shown = np.zeros(dataset.num_items + 1, np.int64)
        shown[at] = np.asarray(table[name])
        yield SliceAttribute(name, ("missing", "there"), shown[item])


def _categorical(dataset: Dataset, rows: ScoredRows) -> Iterator[SliceAttribute]:
    features = dataset.sequences.features
    named = [feature for feature in features.schema.categorical if isinstance(feature, Categorical)]
    codes = features.lookup(rows.user_idx, rows.item_idx, rows.event).categorical
    for feature, code in zip(named, np.moveaxis(codes, -1, 0), strict=True):
        frequent = [value for value in np.argsort(-np.bincount(code, minlength=1), kind="stable") if value][:VALUES]
        place = np.full(len(feature.values) + 1, UNKNOWN)
        place[frequent] = np.arange(len(frequent))
        groups = tuple(feature.values[value - 1] for value in frequent)
        yield SliceAttribute(f"{feature.owner} {feature.name}", groups, place[code])
