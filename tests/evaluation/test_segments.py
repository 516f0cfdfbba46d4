import math

import numpy as np
import pytest

from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.segments import UNKNOWN, Facet, ranges, worst_segments

SETTINGS = {"confidence": 0.95, "resamples": 400, "seed": 0}


def _log(planted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Facet]]:
    """200 users; where `planted`, scores are noise for texts of old items only."""
    rng = np.random.default_rng(0)
    n = 30_000
    user, truth = rng.integers(0, 200, n), rng.normal(0, 1, n)
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-2 * truth))).astype(np.int64)
    kind, age = rng.integers(0, 3, n), rng.uniform(0, 100, n)
    bad = planted & (kind == 1) & (age >= 50)
    score = np.where(bad, rng.normal(0, 1, n), truth)
    return user, label, score, [Facet("kind", ("picture", "text", "both"), kind), ranges("age", age, (10, 50), " h")]


def test_a_planted_weak_spot_is_found_first_and_as_a_pair() -> None:
    user, label, score, facets = _log(planted=True)
    found = worst_segments(user, label, score, facets, **SETTINGS)
    first = found["worst"][0]
    assert first["conditions"] == {"kind": "text", "age": "50 h and more"}
    at = (facets[0].code == 1) & (facets[1].code == 2)
    assert first["rows"] == at.sum()
    assert first["gauc"] == pytest.approx(gauc(user[at], label[at], score[at]))
    assert first["delta"] == pytest.approx(first["gauc"] - found["overall"])
    assert first["low"] < first["delta"] < first["high"] < 0
    assert first["p"] <= first["p_holm"] < 0.05


def test_nothing_is_listed_where_nothing_is_wrong() -> None:
    found = worst_segments(*_log(planted=False), **SETTINGS)
    assert found["tried"] == 3 + 3 + 9
    assert found["worst"] == []


def test_small_segments_and_the_whole_under_another_name_are_not_tried() -> None:
    user, label, score, _ = _log(planted=False)
    everywhere = Facet("any", ("yes", "no"), np.where(np.arange(len(user)) < 100, 1, 0))
    assert worst_segments(user, label, score, [everywhere], **SETTINGS)["tried"] == 0


def test_a_condition_that_implies_another_makes_no_pair() -> None:
    user, label, score, facets = _log(planted=False)
    twin = Facet("twin", facets[0].groups, facets[0].code)
    assert worst_segments(user, label, score, [facets[0], twin], **SETTINGS)["tried"] == 6


def test_rows_of_one_class_have_no_figure() -> None:
    user, _, score, facets = _log(planted=False)
    found = worst_segments(user, np.ones(len(user), np.int64), score, facets, **SETTINGS)
    assert math.isnan(found["overall"])
    assert found["worst"] == []


def test_ranges_name_their_bounds_and_leave_out_what_is_not_known() -> None:
    facet = ranges("age", np.array([0.0, 10.0, 60.0, math.nan]), (10, 50), " h")
    assert facet.groups == ("below 10 h", "10 h to below 50 h", "50 h and more")
    assert facet.code.tolist() == [0, 1, 2, UNKNOWN]
