"""Training with ID tables whose items share rows: fewer rows learn less, but more than nothing."""

import pytest

from tests.training.clicks import low_rank_clicks, small_ranker


def best(**table):
    _, progress = small_ranker(low_rank_clicks(), epochs=16, patience=16, learning_rate=1e-2, table=table)
    return progress.best


@pytest.fixture(scope="module")
def full():
    return best(kind="full")


def test_as_many_rows_as_items_lose_nothing(full):
    assert best(kind="hashed", rows=60) == pytest.approx(full, abs=0.03)


@pytest.mark.parametrize(("kind", "rows"), [("hashed", 30), ("quotient_remainder", 8)])
def test_fewer_rows_learn_less_than_all_and_more_than_none(full, kind, rows):
    assert 0.57 < best(kind=kind, rows=rows) < full
