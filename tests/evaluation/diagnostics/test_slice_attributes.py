from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import write_artifact
from coldstart.data.dataset import Dataset
from coldstart.data.schema import ITEMS, SEQUENCES
from coldstart.evaluation.diagnostics.slice_attributes import slice_attributes
from coldstart.evaluation.diagnostics.slice_finder import SliceAttribute
from tests.evaluation.rows import scored_rows

IMAGES, TEXTS = [b"p", None, None], ["long", None, "words"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two users, three items; the first user has 25 train events before three test events."""
    items = {"item_idx": [1, 2, 3], "item_id": ["a", "b", "c"], "title": ["x"] * 3, "text": TEXTS, "image": IMAGES}
    items |= {name: [0] * 3 for name in ITEMS.names if name not in items}
    lengths = (28, 3)
    events = [
        {
            "user_idx": user,
            "user_id": f"u{user}",
            "item_idx": [1 + place % 3 for place in range(many)],
            "label": [0] * many,
            "timestamp": list(range(many)),
            "split": [0] * (many - 3) + [2] * 3,
        }
        for user, many in enumerate(lengths)
    ]
    with write_artifact(tmp_path / "dataset", "dataset", {}, {"items": 3}) as draft:
        tables = {"items": pa.table(items, schema=ITEMS), "sequences": pa.Table.from_pylist(events, schema=SEQUENCES)}
        for name, table in tables.items():
            (draft / name).mkdir()
            pq.write_table(table, draft / name / "part-00000.parquet")
    return Dataset.open(tmp_path / "dataset")


def test_rows_are_grouped_by_item_user_history_and_content(dataset: Dataset) -> None:
    event = np.array([25, 27, 28, 30])
    user, item = np.array([0, 0, 1, 1]), dataset.sequences.item_idx[event].astype(np.int64)
    rows = scored_rows(user, np.zeros(4, np.int64), np.array([0, 5, 50, 500]), {}, item=item)
    found = {attribute.name: _named(attribute) for attribute in slice_attributes(dataset, replace(rows, event=event))}
    assert found["train events of the item"] == ["below 1", "1 to below 10", "10 to below 100", "100 and more"]
    assert found["train events of the user"] == ["20 to below 100", "20 to below 100", "below 1", "below 1"]
    assert found["events before the row"] == ["10 to below 50", "10 to below 50", "below 10", "below 10"]
    assert found["age of the item"] == [None] * 4
    assert found["image"] == ["there" if IMAGES[i - 1] else "missing" for i in item]
    assert found["text"] == ["there" if TEXTS[i - 1] else "missing" for i in item]


def _named(attribute: SliceAttribute) -> list[str | None]:
    return [attribute.groups[code] if code >= 0 else None for code in attribute.code]
