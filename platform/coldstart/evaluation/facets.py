"""Facets of evaluated rows: the ways in which a search for weak segments may cut them.

Legend: `n` rows, `N` items.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow.dataset as pads
from numpy.typing import NDArray

from coldstart.data.contract import TRAIN
from coldstart.data.dataset import Dataset
from coldstart.data.features import Categorical
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.segments import UNKNOWN, Facet, ranges

DAY = 86_400
VALUES = 12
"""Most frequent values of a categorical feature that are groups; rows of the others are in none."""


def facets(dataset: Dataset, rows: ScoredRows) -> list[Facet]:
    """What is known about rows: their item, their user, and their place in the user's history.

    Args:
        dataset: That the rows belong to.
        rows: In any order.
    """
    sequences = dataset.sequences
    before = rows.event - sequences.offsets[rows.user_idx]
    owner = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    activity = np.bincount(owner[sequences.split == TRAIN], minlength=len(sequences.offsets) - 1)
    return [
        ranges("train events of the item", rows.train_events, (1, 10, 100)),
        ranges("age of the item", rows.age_s / DAY, (1, 7, 30), " d"),
        ranges("train events of the user", activity[rows.user_idx], (1, 20, 100)),
        ranges("events before the row", before, (10, 50, 200)),
        *_content(dataset, rows.item_idx),
        *_categorical(dataset, rows),
    ]


def _content(dataset: Dataset, item: NDArray[np.integer]) -> Iterator[Facet]:
    """Whether the item shows a picture and a text; pictures are asked for, not read into memory."""
    table = pads.dataset(dataset.artifact.path / "items", format="parquet").to_table(
        columns={"item_idx": pads.field("item_idx")}
        | {name: pads.field(name).is_valid() for name in ("picture", "text")}
    )
    at = np.asarray(table["item_idx"])
    for name in ("picture", "text"):
        shown = np.zeros(dataset.num_items + 1, np.int64)
        shown[at] = np.asarray(table[name])
        yield Facet(name, ("missing", "there"), shown[item])


def _categorical(dataset: Dataset, rows: ScoredRows) -> Iterator[Facet]:
    features = dataset.sequences.features
    named = [feature for feature in features.schema.categorical if isinstance(feature, Categorical)]
    codes = features.at(rows.user_idx, rows.item_idx, rows.event).categorical
    for feature, code in zip(named, np.moveaxis(codes, -1, 0), strict=True):
        frequent = [value for value in np.argsort(-np.bincount(code, minlength=1), kind="stable") if value][:VALUES]
        place = np.full(len(feature.values) + 1, UNKNOWN)
        place[frequent] = np.arange(len(frequent))
        groups = tuple(feature.values[value - 1] for value in frequent)
        yield Facet(f"{feature.owner} {feature.name}", groups, place[code])
