"""Negatives drawn for logs of clicks: of the same time and split, never clicked by the user, at popularity's rate."""

import numpy as np
import pyarrow as pa
import pytest

from coldstart.config import Recipe
from coldstart.config.recipe import DrawnNegatives
from coldstart.data.negatives import ClickPool, add_negatives

DAY = 86_400


def log(users: int = 150, clicks: int = 8, items: int = 80, seed: int = 0) -> pa.Table:
    """Clicks over 40 days, of more items every day, and of old ones more often; the last 10 days are test."""
    rng = np.random.default_rng(seed)
    when = np.sort(rng.integers(0, 40 * DAY, (users, clicks)), axis=1).ravel()
    known = (when // DAY + 1) * items // 40
    item = 1 + (known * rng.random(len(when)) ** 2).astype(np.int64)
    user = np.repeat(np.arange(users), clicks)
    columns = {
        "user_idx": pa.array(user, pa.int32()),
        "item_idx": pa.array(item, pa.int32()),
        "timestamp": pa.array(when),
        "split": pa.array((when >= 30 * DAY) * 2, pa.int8()),
        "label": pa.array(np.ones(len(when)), pa.int8()),
        "context.device": pa.array(rng.integers(0, 3, len(when))),
    }
    return pa.table(columns)


def expand(events: pa.Table, seed: int = 3, **settings) -> pa.Table:
    chosen = DrawnNegatives(**settings)
    return add_negatives(events, ClickPool.of(events, chosen), chosen, np.random.default_rng(seed))


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name]).astype(np.int64)


@pytest.mark.parametrize("by", ["popularity", "uniform"])
def test_every_click_is_followed_by_items_that_the_user_never_clicked(by):
    events = log()
    found = expand(events, by=by, per_click=3)
    label = column(found, "label")
    assert found.filter(pa.array(label == 1)).equals(events)
    clicked = set(zip(column(events, "user_idx").tolist(), column(events, "item_idx").tolist(), strict=True))
    drawn = found.filter(pa.array(label == 0))
    pairs = list(zip(column(drawn, "user_idx").tolist(), column(drawn, "item_idx").tolist(), strict=True))
    assert not clicked & set(pairs)
    assert len(drawn) > 2.9 * len(events)
    # The rows that follow a click are its own, with its time and context, and different items.
    click = np.cumsum(label) - 1
    for name in ("timestamp", "context.device", "split", "user_idx"):
        assert (column(found, name) == column(events, name)[click]).all()
    keys = click * 1000 + column(found, "item_idx")
    assert len(np.unique(keys)) == len(keys)
    assert found.schema == events.schema


def test_a_negative_was_clicked_about_that_time_in_the_same_split():
    events, window = log(), 2 * DAY
    found = expand(events, window_s=window)
    when, split, item = (column(events, name) for name in ("timestamp", "split", "item_idx"))
    drawn = found.filter(pa.array(column(found, "label") == 0))
    for time, code, chosen in zip(
        *(column(drawn, n).tolist() for n in ("timestamp", "split", "item_idx")), strict=True
    ):
        assert ((abs(when - time) <= window) & (split == code) & (item == chosen)).any()
    new = set(item[split == 2].tolist()) - set(item[split == 0].tolist())
    assert new
    # New items are negatives of the test part, and no negative of training.
    assert new & set(column(drawn, "item_idx")[column(drawn, "split") == 2].tolist())
    assert not new & set(column(drawn, "item_idx")[column(drawn, "split") == 0].tolist())


def test_popularity_alone_predicts_clicks_only_where_negatives_are_uniform():
    events = log(users=1500, clicks=2, items=800)
    share = {}
    for by in ("popularity", "uniform"):
        found = expand(events, by=by, per_click=4, window_s=2 * DAY)
        label, popular = column(found, "label"), np.bincount(column(events, "item_idx"))[column(found, "item_idx")]
        share[by] = popular[label == 1].mean() / popular[label == 0].mean()
    # What the user clicked is left out, so negatives are a little less popular.
    assert share["popularity"] == pytest.approx(1, abs=0.2)
    assert share["uniform"] > share["popularity"] + 0.3


def test_the_same_seed_draws_the_same_items():
    assert expand(log()).equals(expand(log()))
    assert not expand(log()).equals(expand(log(), seed=4))


def test_a_user_who_clicked_everything_gets_no_negative():
    events = log(users=2, clicks=400, items=2)
    assert len(expand(events)) == len(events)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"files": {"columns": {"label": None}}}, r"every row is a click .* set negatives: \{per_click: 4\}"),
        ({"negatives": {}}, r"set files\.columns\.label: null if every row is a click, or remove negatives"),
        (
            {"files": {"columns": {"label": None}, "positive_threshold": 4}, "negatives": {}},
            r"files\.positive_threshold needs files\.columns\.label",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({"name": "x", "data": {"source": "files", **data}})
