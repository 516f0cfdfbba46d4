import dataclasses

import numpy as np
import pytest

from coldstart.evaluation.inference.intervals import Interval
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import warm_up_edges
from coldstart.evaluation.protocol.warm_up_curve import crossover_clicks
from coldstart.metrics.clicks import gauc
from tests.evaluation.rows import scored_rows, summary_of


def _rows(users: int = 200, items: int = 400, n: int = 40_000) -> ScoredRows:
    """ID rows are more accurate with more clicks; the fine proxy is equally accurate for all."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    events = np.array([0, 4, 12, 40, 120, 400])[item % 6]
    truth = rng.normal(0, 1.5, items)[item]
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(int)
    error = rng.normal(0, 1, (2, items))
    logits = {
        "oov": np.zeros(n),
        "fine": truth + 1.2 * error[0][item],
        "id": np.where(events > 0, truth + 12 / np.maximum(events, 1) * error[1][item], 0),
    }
    return scored_rows(user, label, events, logits, item=item + 1)


def test_edges_are_two_per_decade_up_to_the_maximum() -> None:
    assert warm_up_edges(np.array([0, 5, 250])) == (0, 1, 3, 10, 30, 100)
    assert warm_up_edges(np.array([300])) == (0, 1, 3, 10, 30, 100, 300)
    assert warm_up_edges(np.array([], int)) == (0,)


def test_the_curve_has_the_clicks_from_which_the_id_row_is_better() -> None:
    rows = _rows()
    found = summary_of(rows, num_resamples=200)["warm_up"]
    assert found["edges"] == [0, 1, 3, 10, 30, 100]
    assert sum(found["rows"]) == len(rows)
    assert found["crossover_clicks"] == {"oov": 1, "fine": 10}
    values = [point["value"] for point in found["gauc_item"]["id"] if point]
    assert values == sorted(values)
    of_bin = rows.take((rows.train_clicks >= 10) & (rows.train_clicks < 30))
    expected = gauc(of_bin.user_idx, of_bin.label, np.round(of_bin.logits["fine"], 5))
    point = found["gauc_item"]["fine"][3]
    assert point["value"] == pytest.approx(expected)
    assert point["low"] < point["value"] < point["high"]
    lead = found["id_minus"]["fine"][3]["value"]
    assert lead == pytest.approx(found["gauc_item"]["id"][3]["value"] - expected)


def test_a_bin_with_few_users_is_undefined() -> None:
    rows = _rows()
    few = rows.take((rows.train_clicks != 20) | (rows.user_idx < 8))
    found = summary_of(few)["warm_up"]
    assert found["rows"][3] > 0
    assert found["gauc"]["id"][3] is None
    assert found["id_minus"]["fine"][3] is None
    blank = summary_of(dataclasses.replace(rows, logits={"oov": rows.logits["oov"]}))["warm_up"]
    assert blank["crossover_clicks"] == {}


@pytest.mark.parametrize(
    ("leads", "clicks"),
    [
        ([(-0.2, -0.1), (-0.1, 0.1), (0.1, 0.2), (-0.1, 0.3)], 3),
        ([(0.1, 0.2), (-0.2, -0.1), (0.1, 0.2), None], 3),
        ([(-0.1, 0.1), None, (-0.1, 0.3), (-0.2, 0.1)], None),
    ],
)
def test_crossover_needs_a_significant_lead_that_is_not_significantly_lost(
    leads: list[tuple[float, float] | None], clicks: int | None
) -> None:
    found = [None if lead is None else Interval(sum(lead) / 2, *lead) for lead in leads]
    assert crossover_clicks((0, 1, 3, 10), found) == clicks
