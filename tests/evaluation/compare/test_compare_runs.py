import json
from pathlib import Path

import numpy as np
import pytest

from coldstart.config import Recipe, UserError, write_artifact
from coldstart.evaluation.compare.compare_runs import compare_runs
from coldstart.evaluation.compare.evaluated_runs import EvaluatedRun, unpaired_reason
from coldstart.metrics.clicks import gauc
from tests.evaluation.evaluated import scored_rows, write_run


def recipe(**fields: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "evaluation": {"num_resamples": 200}} | fields)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluatedRun, EvaluatedRun]:
    """The second run has better fine proxies and other settings."""
    better = recipe(name="better", method={"fine": {"mlp_units": 64}}, seed=18)
    at = tmp_path_factory.mktemp("runs")
    worse = write_run(at / "worse", scored_rows(noise=2.0, training=1), recipe(name="worse"))
    better = write_run(
        at / "better",
        scored_rows(noise=0.5, training=1),
        better,
    )
    return EvaluatedRun.open(worse), EvaluatedRun.open(better)


def entry(found: dict, **wanted: str) -> dict:
    (one,) = [each for each in found["differences"] if wanted.items() <= each.items()]
    return one


def test_an_improvement_is_significant_and_an_unchanged_variant_is_not(runs: tuple) -> None:
    found = compare_runs(*runs)
    fine = entry(found, slice="cold", variant="fine", metric="gauc")
    assert 0 < fine["low"] < fine["delta"] < fine["high"]
    assert fine["p"] <= fine["p_holm"] < 0.01
    assert fine["mde"] > 0
    rows = [run.rows for run in runs]
    cold = rows[0].train_events == 0
    before, after = (gauc(r.user_idx[cold], r.label[cold], r.logits["fine"][cold]) for r in rows)
    assert fine["delta"] == pytest.approx(after - before)
    oov = entry(found, slice="cold", variant="oov", metric="gauc")
    assert (oov["delta"], oov["low"], oov["high"], oov["p"]) == (0, 0, 0, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_settings_and_lineage_that_differ_are_listed(runs: tuple) -> None:
    found = compare_runs(*runs)
    assert {"setting": "method.fine.mlp_units", "values": [256, 64]} in found["settings"]
    assert {"setting": "seed", "values": [17, 18]} in found["settings"]
    assert all(each["values"][0] != each["values"][1] for each in found["settings"])
    assert {each["kind"]: each["same"] for each in found["lineage"]} == {"dataset": True, "ranker": False}


def test_runs_on_other_rows_have_no_differences(runs: tuple, tmp_path: Path) -> None:
    whole = scored_rows(noise=0.5, training=1)
    part = EvaluatedRun.open(write_run(tmp_path / "part", whole.take(np.arange(5000)), recipe()))
    other = EvaluatedRun.open(write_run(tmp_path / "other", whole, recipe(), dataset="e" * 64))
    for run, reason in ((part, "different rows"), (other, "different datasets")):
        assert reason in str(unpaired_reason(runs[0], run))
        found = compare_runs(runs[0], run)
        assert not found["paired"]
        assert reason in found["reason"]
        assert found["differences"] == []
        assert any(each["values"][0] is not None for each in found["metrics"])


def test_a_slice_without_rows_is_undefined(tmp_path: Path) -> None:
    warm = scored_rows(noise=1.0, training=1)
    warm = warm.take(warm.train_events > 0)
    run = EvaluatedRun.open(write_run(tmp_path / "warm", warm, recipe()))
    cold = entry(compare_runs(run, run), slice="cold", variant="fine", metric="gauc")
    assert (cold["delta"], cold["low"], cold["p"], cold["mde"]) == (None, None, None, None)


def test_an_evaluation_of_an_older_release_names_the_fix(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "evaluation", "evaluation", {}, {}) as draft:
        (draft / "report.html").write_text("")
    with pytest.raises(UserError, match=r"has no scores.*Evaluate the run again"):
        EvaluatedRun.open(tmp_path)
