"""Which rows count as changed, without Ray; one case per line."""

import numpy as np
import pyarrow as pa
import pytest

from coldstart.data.content import Content
from coldstart.data.features import Categorical, EncodedFeatures, FeatureSchema, Numeric
from coldstart.jobs.serving.catalog_diff import KnownItems
from coldstart.serving.store.publication_log import item_digest

SCHEMA = FeatureSchema(
    categorical=(Categorical(owner="item", name="brand", values=("a", "b")),),
    numeric=(Numeric(owner="item", name="price", mean=10, scale=4),),
)


def raw(row):
    values = {"brand": row["item.brand"], "price": row["item.price"]}
    return {name: value for name, value in values.items() if value is not None and value == value}


def known() -> KnownItems:
    """`old` and `gone` are in the catalog; `hand`, `picked` and `stale` are published, `gone` is withdrawn."""
    published = {
        "hand": (item_digest(Content("by hand"), {"brand": "a"}), 100.0),
        "picked": (item_digest(Content("picked"), {"brand": "a"}), -np.inf),
        "stale": (None, -np.inf),
        "gone": (None, np.inf),
    }
    return KnownItems(
        catalog_ids=pa.array(["gone", "old"]),
        catalog_digests=pa.array([Content("gone").digest, Content("old").digest]),
        schema=SCHEMA,
        catalog_features=EncodedFeatures(np.array([[0], [1], [2]]), np.array([[0], [0.5], [-1]], np.float32)),
        published_ids=pa.array(list(published)),
        published_digests=pa.array([digest for digest, _ in published.values()], pa.string()),
        manual_until=np.array([until for _, until in published.values()]),
    )


@pytest.mark.parametrize(
    ("item_id", "title", "brand", "price", "changed_at", "changed"),
    [
        ("old", "old", "b", 6.0, np.nan, False),
        ("old", "old", "b", 7.0, np.nan, True),
        ("old", "old", "a", 6.0, np.nan, True),
        ("old", "another", "b", 6.0, np.nan, True),
        ("new", "new", None, np.nan, np.nan, True),
        ("hand", "by hand", "a", np.nan, 200.0, False),
        ("hand", "in the table", "a", np.nan, 50.0, False),
        ("hand", "in the table", "a", np.nan, np.nan, False),
        ("hand", "in the table", "a", np.nan, 200.0, True),
        ("picked", "picked", "a", np.nan, np.nan, False),
        ("picked", "changed", "a", np.nan, np.nan, True),
        ("stale", "picked", "a", np.nan, np.nan, True),
        ("gone", "whatever", "a", 12.0, 1e12, False),
    ],
)
def test_which_rows_are_changed(item_id, title, brand, price, changed_at, changed):
    rows = pa.table(
        {
            "item_id": [item_id],
            "title": [title],
            "text": pa.array([None], pa.string()),
            "image": pa.array([None], pa.large_binary()),
            "changed_at": [changed_at],
            "item.brand": pa.array([brand], pa.string()),
            "item.price": [price],
        }
    )
    assert known().is_changed(rows, raw).tolist() == [changed]


def test_known_items_are_in_the_catalog_or_published():
    ids = pa.chunked_array([["old", "gone", "hand", "picked"], ["stale", "new", None]])
    assert known().contains(ids).to_pylist() == [True] * 4 + [False] * 3


def test_without_content_digests_only_new_items_are_found():
    blind = KnownItems(**{**vars(known()), "catalog_digests": None, "schema": FeatureSchema()})
    rows = pa.table(
        {
            "item_id": ["old", "new"],
            "title": ["changed", "new"],
            "text": pa.array([None, None], pa.string()),
            "image": pa.array([None, None], pa.large_binary()),
            "changed_at": [np.nan, np.nan],
        }
    )
    assert blind.is_changed(rows, lambda row: None).tolist() == [False, True]
