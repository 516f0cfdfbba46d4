import math

import numpy as np
import pytest

from coldstart.evaluation.diagnostics.slice_finder import UNKNOWN, SliceAttribute, binned_attribute, find_worst_slices
from coldstart.metrics.clicks import gauc

SETTINGS = {"confidence": 0.95, "resamples": 400, "seed": 0}


def _log(planted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[SliceAttribute]]:
    """200 users; if `planted`, scores are noise for old items with text only."""
    rng = np.random.default_rng(0)
    n = 30_000
    user, truth = rng.integers(0, 200, n), rng.normal(0, 1, n)
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-2 * truth))).astype(np.int64)
    kind, age = rng.integers(0, 3, n), rng.uniform(0, 100, n)
    bad = planted & (kind == 1) & (age >= 50)
    score = np.where(bad, rng.normal(0, 1, n), truth)
    return (
        user,
        label,
        score,
        [SliceAttribute("kind", ("image", "text", "both"), kind), binned_attribute("age", age, (10, 50), " h")],
    )


def test_a_planted_weak_slice_is_listed_first_as_an_intersection() -> None:
    user, label, score, attributes = _log(planted=True)
    found = find_worst_slices(user, label, score, attributes, **SETTINGS)
    first = found["worst"][0]
    assert first["conditions"] == {"kind": "text", "age": "50 h and more"}
    at = (attributes[0].code == 1) & (attributes[1].code == 2)
    assert first["rows"] == at.sum()
    assert first["gauc"] == pytest.approx(gauc(user[at], label[at], score[at]))
    assert first["delta"] == pytest.approx(first["gauc"] - found["overall"])
    assert first["low"] < first["delta"] < first["high"] < 0
    assert first["p"] <= first["p_holm"] < 0.05


def test_nothing_is_listed_if_no_slice_is_weak() -> None:
    found = find_worst_slices(*_log(planted=False), **SETTINGS)
    assert found["tried"] == 3 + 3 + 9
    assert found["worst"] == []


def test_slices_of_few_or_almost_all_rows_are_not_tested() -> None:
    user, label, score, _ = _log(planted=False)
    everywhere = SliceAttribute("any", ("yes", "no"), np.where(np.arange(len(user)) < 100, 1, 0))
    assert find_worst_slices(user, label, score, [everywhere], **SETTINGS)["tried"] == 0


def test_a_condition_that_implies_another_makes_no_intersection() -> None:
    user, label, score, attributes = _log(planted=False)
    twin = SliceAttribute("twin", attributes[0].groups, attributes[0].code)
    assert find_worst_slices(user, label, score, [attributes[0], twin], **SETTINGS)["tried"] == 6


def test_rows_of_one_class_have_no_gauc() -> None:
    user, _, score, attributes = _log(planted=False)
    found = find_worst_slices(user, np.ones(len(user), np.int64), score, attributes, **SETTINGS)
    assert math.isnan(found["overall"])
    assert found["worst"] == []


def test_bins_are_named_by_their_bounds_and_nan_is_in_none() -> None:
    attribute = binned_attribute("age", np.array([0.0, 10.0, 60.0, math.nan]), (10, 50), " h")
    assert attribute.groups == ("below 10 h", "10 h to below 50 h", "50 h and more")
    assert attribute.code.tolist() == [0, 1, 2, UNKNOWN]
