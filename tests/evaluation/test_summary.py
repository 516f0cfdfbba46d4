import dataclasses
import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from coldstart.config import UserError
from coldstart.evaluation.metrics import gauc, logloss, rank_users, reliability, sigmoid
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.summary import Summary
from tests.evaluation.rows import scored_rows, summary_of


def test_figures_are_those_of_the_slice(rows: ScoredRows, summary: Summary) -> None:
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
    assert found["ndcg"] == pytest.approx(ranking.ndcg(summary["top"]).mean(), abs=1e-12)
    assert found["recall"] == pytest.approx(ranking.recall(summary["top"]).mean(), abs=1e-12)
    for name in ("gauc", "gauc_item"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_a_histogram_counts_every_row_once(rows: ScoredRows, summary: Summary) -> None:
    shown = summary["histogram"]
    assert len(shown["edges"]) == 21
    for by_slice in shown["counts"].values():
        assert sum(by_slice["all"]["clicked"]) == rows.label.sum()
        assert sum(by_slice["all"]["clicked"]) + sum(by_slice["all"]["skipped"]) == len(rows)


def test_what_a_request_shares_neither_earns_nor_costs_a_variant(rows: ScoredRows) -> None:
    """A running click rate points the wrong way within a log; all variants of the ranker carry it."""
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


def test_the_gap_and_the_origin_of_a_gain_add_up(summary: Summary) -> None:
    assert summary["ceiling"] == "content_oracle"
    for gaps in (summary["gap_closed"], summary["gap_closed_item"]):
        assert gaps["content_oracle"]["value"] == pytest.approx(1)
        assert gaps["coarse"]["value"] < gaps["fine"]["value"] < 1
    for name, part in summary["appeal_share"].items():
        total = summary["delta_item_vs_oov"][name]["cold"]["gauc"]
        assert part["appeal"] + part["taste"] == pytest.approx(total)
        assert part["share"] == pytest.approx(part["appeal"] / total)
        assert part["low"] < part["share"] < part["high"]


def test_on_real_data_the_ranker_that_knew_the_items_is_the_ceiling_above_its_own_oov_row(rows: ScoredRows) -> None:
    other = np.random.default_rng(0).normal(0, 3, len(rows))
    logits = {name: rows.logits[name] for name in ("oov", "fine")}
    logits |= {"trained_oracle": rows.logits["oracle"] + other, "trained_oracle_context": other}
    found = summary_of(dataclasses.replace(rows, logits=logits, appeal={}), bootstrap=50)
    assert found["ceiling"] == "trained_oracle"
    assert list(found["metrics"]) == ["oov", "fine", "trained_oracle"]
    expected = gauc(rows.user_idx, rows.label, np.round(rows.logits["oracle"], 5))
    assert found["metrics"]["trained_oracle"]["all"]["gauc_item"] == pytest.approx(expected, abs=1e-4)
    assert 0 < found["gap_closed_item"]["fine"]["value"] < 1


def test_a_share_of_no_gain_is_not_defined(rows: ScoredRows) -> None:
    same = {"oov": rows.logits["oov"], "fine": rows.logits["oov"]}
    found = summary_of(dataclasses.replace(rows, logits=same, appeal={"fine": rows.appeal["fine"]}))
    assert found["appeal_share"]["fine"]["share"] is None
    assert found["gap_closed"] == {}
    assert found["ceiling"] is None


def test_an_empty_slice_and_a_one_class_user_are_marked_not_hidden() -> None:
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
def test_scores_that_are_not_numbers_name_the_variant(rows: ScoredRows, bad: float) -> None:
    broken = rows.logits["fine"].copy()
    broken[7] = bad
    with pytest.raises(UserError, match=r"variant 'fine': 1 of 8000 logits are not finite"):
        summary_of(dataclasses.replace(rows, logits={**rows.logits, "fine": broken}))


def test_appeal_may_be_unknown_on_warm_rows_only(rows: ScoredRows) -> None:
    cold = rows.train_events == 0
    known = np.where(cold, rows.appeal["fine"], math.nan)
    assert summary_of(dataclasses.replace(rows, appeal={"fine": known}))["appeal_share"]["fine"]["appeal"] is not None
    with pytest.raises(UserError, match=rf"variant 'fine': {cold.sum()} of {cold.sum()} appeal are not finite"):
        summary_of(dataclasses.replace(rows, appeal={"fine": np.full(len(rows), math.nan)}))


def test_same_seed_same_summary(rows: ScoredRows, summary: Summary) -> None:
    assert summary_of(rows, bootstrap=200, seed=3) == summary
