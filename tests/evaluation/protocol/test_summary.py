import dataclasses
import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from coldstart.config import UserError
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.summary import Summary
from coldstart.metrics.clicks import gauc, logloss, rank_users, reliability, sigmoid
from tests.evaluation.rows import scored_rows, summary_of


def test_metrics_are_those_of_the_slice(rows: ScoredRows, summary: Summary) -> None:
    cold = rows.take(rows.train_events == 0)
    found = summary["metrics"]["fine"]["cold"]
    label, logit = cold.label, cold.logits["fine"]
    assert found["rows"] == len(cold)
    assert found["positives"] == label.sum()
    assert found["auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-9)
    assert found["gauc"] == pytest.approx(gauc(cold.user_idx, label, logit), abs=1e-12)
    above = np.round(logit - cold.logits["oov"], 5)
    assert found["gauc_item"] == pytest.approx(gauc(cold.user_idx, label, above), abs=1e-12)
    assert found["logloss"] == pytest.approx(logloss(label, sigmoid(logit)), abs=1e-12)
    curve = reliability(label, sigmoid(logit), bins=15)
    assert found["ece"] == pytest.approx(curve.error, abs=1e-12)
    assert summary["calibration"]["fine"]["cold"]["observed"] == pytest.approx(curve.observed.tolist())
    ranking = rank_users(cold.user_idx, label, logit)
    assert found["ndcg"] == pytest.approx(ranking.ndcg(summary["top_k"]).mean(), abs=1e-12)
    assert found["recall"] == pytest.approx(ranking.recall(summary["top_k"]).mean(), abs=1e-12)
    for name in ("gauc", "gauc_item"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_a_histogram_counts_every_row_once(rows: ScoredRows, summary: Summary) -> None:
    shown = summary["histogram"]
    assert len(shown["edges"]) == 21
    for by_slice in shown["counts"].values():
        assert sum(by_slice["all"]["clicked"]) == rows.label.sum()
        assert sum(by_slice["all"]["clicked"]) + sum(by_slice["all"]["skipped"]) == len(rows)


def test_item_gauc_ignores_terms_shared_by_all_variants(rows: ScoredRows) -> None:
    """A running click rate points the wrong way within a log, and is part of the logits of all variants."""
    backwards = np.where(rows.label > 0, -2.0, 2.0)
    logits = {name: values + (0 if "oracle" in name else backwards) for name, values in rows.logits.items()}
    plain, found = (summary_of(given) for given in (rows, dataclasses.replace(rows, logits=logits)))
    assert found["metrics"]["oov"]["cold"]["gauc"] < 0.2
    assert found["metrics"]["oov"]["cold"]["gauc_item"] == 0.5
    assert found["delta_item_vs_oov"] == plain["delta_item_vs_oov"]
    assert found["gap_closed_item"] == plain["gap_closed_item"]


@pytest.mark.parametrize(("deltas", "metric"), [("delta_vs_oov", "gauc"), ("delta_item_vs_oov", "gauc_item")])
def test_differences_are_paired_against_oov(summary: Summary, deltas: str, metric: str) -> None:
    delta = summary[deltas]["fine"]["cold"]
    metrics = summary["metrics"]
    assert delta["gauc"] == pytest.approx(metrics["fine"]["cold"][metric] - metrics["oov"]["cold"][metric])
    assert 0 < delta["low"] < delta["gauc"] < delta["high"]
    assert "oov" not in summary[deltas]
    assert summary[deltas]["id"]["cold"] == {"gauc": 0.0, "low": 0.0, "high": 0.0}


def test_item_effect_and_personalization_add_up_to_the_gain(summary: Summary) -> None:
    assert summary["upper_bound"] == "content_oracle"
    for gaps in (summary["gap_closed"], summary["gap_closed_item"]):
        assert gaps["content_oracle"]["value"] == pytest.approx(1)
        assert gaps["coarse"]["value"] < gaps["fine"]["value"] < 1
    for name, part in summary["item_effect_share"].items():
        total = summary["delta_item_vs_oov"][name]["cold"]["gauc"]
        assert part["item_effect"] + part["personalization"] == pytest.approx(total)
        assert part["share"] == pytest.approx(part["item_effect"] / total)
        assert part["low"] < part["share"] < part["high"]


def test_without_ground_truth_the_trained_oracle_is_the_upper_bound(rows: ScoredRows) -> None:
    other = np.random.default_rng(0).normal(0, 3, len(rows))
    logits = {name: rows.logits[name] for name in ("oov", "fine")}
    logits |= {"trained_oracle": rows.logits["oracle"] + other, "trained_oracle_oov": other}
    found = summary_of(dataclasses.replace(rows, logits=logits, item_effect={}), num_resamples=50)
    assert found["upper_bound"] == "trained_oracle"
    assert list(found["metrics"]) == ["oov", "fine", "trained_oracle"]
    expected = gauc(rows.user_idx, rows.label, np.round(rows.logits["oracle"], 5))
    assert found["metrics"]["trained_oracle"]["all"]["gauc_item"] == pytest.approx(expected, abs=1e-4)
    assert 0 < found["gap_closed_item"]["fine"]["value"] < 1


def test_shares_without_a_gain_are_undefined(rows: ScoredRows) -> None:
    same = {"oov": rows.logits["oov"], "fine": rows.logits["oov"]}
    found = summary_of(dataclasses.replace(rows, logits=same, item_effect={"fine": rows.item_effect["fine"]}))
    assert found["item_effect_share"]["fine"]["share"] is None
    assert found["gap_closed"] == {}
    assert found["upper_bound"] is None


def test_an_empty_slice_and_users_of_one_class_are_reported() -> None:
    logits = {"oov": np.zeros(4), "fine": np.array([0.0, 1.0, 0.0, 1.0])}
    found = summary_of(scored_rows(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([5, 5, 5, 0]), logits))
    few, mid, cold, fresh = (found["metrics"]["fine"][name] for name in ("few", "mid", "cold", "fresh"))
    assert (few["gauc"], few["users"], few["users_left_out"]) == (1.0, 1, 1)
    assert few["gauc_low"] is few["gauc_high"] is None
    for empty in (mid, fresh):
        assert (empty["rows"], empty["users"]) == (0, 0)
        for name in ("auc", "gauc", "logloss", "ece", "ndcg", "recall"):
            assert empty[name] is None
    assert cold["gauc"] is cold["auc"] is cold["ndcg"] is None
    assert cold["logloss"] is not None
    assert found["delta_vs_oov"]["fine"]["mid"] == {"gauc": None, "low": None, "high": None}
    undefined = next(entry for entry in found["comparisons"] if entry["slice"] == "mid")
    assert {undefined[key] for key in ("delta", "low", "low_items", "low_both", "p", "p_holm", "mde")} == {None}
    assert found["warm_up"]["gauc"]["fine"] == [None] * len(found["warm_up"]["edges"])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_name_the_variant(rows: ScoredRows, bad: float) -> None:
    broken = rows.logits["fine"].copy()
    broken[7] = bad
    with pytest.raises(UserError, match=r"variant 'fine': 1 of 8000 logits are not finite"):
        summary_of(dataclasses.replace(rows, logits={**rows.logits, "fine": broken}))


def test_item_effect_may_be_unknown_on_warm_rows_only(rows: ScoredRows) -> None:
    cold = rows.train_events == 0
    known = np.where(cold, rows.item_effect["fine"], math.nan)
    assert (
        summary_of(dataclasses.replace(rows, item_effect={"fine": known}))["item_effect_share"]["fine"]["item_effect"]
        is not None
    )
    with pytest.raises(UserError, match=rf"variant 'fine': {cold.sum()} of {cold.sum()} item_effect are not finite"):
        summary_of(dataclasses.replace(rows, item_effect={"fine": np.full(len(rows), math.nan)}))


def test_same_seed_same_summary(rows: ScoredRows, summary: Summary) -> None:
    assert summary_of(rows, num_resamples=200, seed=3) == summary
