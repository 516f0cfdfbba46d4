import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from coldstart.config import UserError
from coldstart.config.recipe import Evaluation
from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.summary import Rows, Summary, summarise

Logits = dict[str, np.ndarray]


def test_figures_are_those_of_the_slice(rows: Rows, logits: Logits, summary: Summary) -> None:
    cold = rows.train_events == 0
    found = summary["metrics"]["fine"]["cold"]
    label, logit = rows.label[cold], logits["fine"][cold]
    assert found["rows"] == cold.sum()
    assert found["positives"] == label.sum()
    assert found["auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-9)
    assert found["gauc"] == pytest.approx(gauc(rows.user[cold], label, logit), abs=1e-12)
    above = np.round(logit - logits["oov"][cold], 5)
    assert found["gauc_item"] == pytest.approx(gauc(rows.user[cold], label, above), abs=1e-12)
    for name in ("gauc", "gauc_item"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_what_a_request_shares_neither_earns_nor_costs_a_variant(rows: Rows, logits: Logits) -> None:
    """A running click rate points the wrong way within a log; all variants of the ranker carry it."""
    backwards = np.where(rows.label > 0, -2.0, 2.0)
    tilted = {name: values + (0 if "oracle" in name else backwards) for name, values in logits.items()}
    plain, found = (summarise(rows, given, {}, Evaluation(bootstrap=20), seed=0) for given in (logits, tilted))
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
    for gaps in (summary["gap_closed"], summary["gap_closed_item"]):
        assert gaps["content_oracle"]["value"] == pytest.approx(1)
        assert gaps["coarse"]["value"] < gaps["fine"]["value"] < 1
    for name, part in summary["appeal_share"].items():
        total = summary["delta_item_vs_oov"][name]["cold"]["gauc"]
        assert part["appeal"] + part["taste"] == pytest.approx(total)
        assert part["share"] == pytest.approx(part["appeal"] / total)
        assert part["low"] < part["share"] < part["high"]


def test_a_share_of_no_gain_is_not_defined(rows: Rows, logits: Logits, appeal: Logits) -> None:
    same = {"oov": logits["oov"], "fine": logits["oov"]}
    found = summarise(rows, same, {"fine": appeal["fine"]}, Evaluation(bootstrap=50), seed=0)
    assert found["appeal_share"]["fine"]["share"] is None
    assert found["gap_closed"] == {}


def test_an_empty_slice_and_a_one_class_user_are_marked_not_hidden() -> None:
    rows = Rows(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([5, 5, 5, 0]))
    logits = {"oov": np.zeros(4), "fine": np.array([0.0, 1.0, 0.0, 1.0])}
    found = summarise(rows, logits, {}, Evaluation(bootstrap=20), seed=0)
    few, mid, cold = (found["metrics"]["fine"][name] for name in ("few", "mid", "cold"))
    assert (few["gauc"], few["users"], few["users_left_out"]) == (1.0, 1, 1)
    assert (mid["rows"], mid["users"]) == (0, 0)
    assert mid["auc"] is mid["gauc"] is mid["logloss"] is mid["ece"] is None
    assert cold["gauc"] is None
    assert cold["logloss"] is not None
    assert found["delta_vs_oov"]["fine"]["mid"] == {"gauc": None, "low": None, "high": None}
    json.dumps(found, allow_nan=False)


def test_scores_that_are_not_numbers_name_the_variant(rows: Rows, logits: Logits) -> None:
    broken = logits["fine"].copy()
    broken[7] = np.nan
    with pytest.raises(UserError, match=r"variant 'fine': 1 of 8000 logits are not finite"):
        summarise(rows, {**logits, "fine": broken}, {}, Evaluation(bootstrap=5), seed=0)


def test_same_seed_same_summary(rows: Rows, logits: Logits, appeal: Logits, summary: Summary) -> None:
    assert summarise(rows, logits, appeal, Evaluation(bootstrap=200), seed=3) == summary
