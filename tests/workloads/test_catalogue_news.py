"""Which rows are news, without Ray: the table of one case per line."""

import numpy as np
import pyarrow as pa
import pytest

from coldstart.data.content import Content
from coldstart.data.features import Categorical, Coded, FeatureSchema, Numeric
from coldstart.serving.publications import digest_of
from workloads.catalogue_news import Known

SCHEMA = FeatureSchema(
    categorical=(Categorical(owner="item", name="brand", values=("a", "b")),),
    numeric=(Numeric(owner="item", name="price", mean=10, scale=4),),
)


def raw(row):
    given = {"brand": row["item.brand"], "price": row["item.price"]}
    return {name: value for name, value in given.items() if value is not None and value == value}


def known() -> Known:
    """`old` and `gone` are listed; `hand`, `picked` and `stale` are published, `gone` is withdrawn."""
    published = {
        "hand": (digest_of(Content("by hand"), {"brand": "a"}), 100.0),
        "picked": (digest_of(Content("picked"), {"brand": "a"}), -np.inf),
        "stale": (None, -np.inf),
        "gone": (None, np.inf),
    }
    return Known(
        listed=pa.array(["gone", "old"]),
        shown=pa.array([Content("gone").digest, Content("old").digest]),
        schema=SCHEMA,
        coded=Coded(np.array([[0], [1], [2]]), np.array([[0], [0.5], [-1]], np.float32)),
        published=pa.array(list(published)),
        digests=pa.array([digest for digest, _ in published.values()], pa.string()),
        until=np.array([until for _, until in published.values()]),
    )


@pytest.mark.parametrize(
    ("item_id", "title", "brand", "price", "changed_at", "news"),
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
def test_what_is_news(item_id, title, brand, price, changed_at, news):
    rows = pa.table(
        {
            "item_id": [item_id],
            "title": [title],
            "text": pa.array([None], pa.string()),
            "picture": pa.array([None], pa.large_binary()),
            "changed_at": [changed_at],
            "item.brand": pa.array([brand], pa.string()),
            "item.price": [price],
        }
    )
    assert known().news(rows, raw).tolist() == [news]


def test_a_release_that_does_not_tell_what_it_was_shown_hides_changes_only():
    blind = Known(**{**vars(known()), "shown": None, "schema": FeatureSchema()})
    rows = pa.table(
        {
            "item_id": ["old", "new"],
            "title": ["changed", "new"],
            "text": pa.array([None, None], pa.string()),
            "picture": pa.array([None, None], pa.large_binary()),
            "changed_at": [np.nan, np.nan],
        }
    )
    assert blind.news(rows, lambda row: None).tolist() == [False, True]
