import json
from pathlib import Path

import numpy as np
import pytest

from coldstart.config import Recipe, UserError, write_artifact
from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.runs import EvaluatedRun, why_not_paired
from coldstart.evaluation.side_by_side import compare
from tests.evaluation.evaluated import scored_rows, write_run


def recipe(**fields: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "evaluation": {"bootstrap": 200}} | fields)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluatedRun, EvaluatedRun]:
    """The second run's fine proxies are better; nothing else changed but a setting."""
    at = tmp_path_factory.mktemp("runs")
    worse = write_run(at / "worse", scored_rows(noise=2.0, training=1), recipe(name="worse"))
    better = write_run(
        at / "better", scored_rows(noise=0.5, training=1), recipe(name="better", fine={"hidden": 64}, seed=18)
    )
    return EvaluatedRun.open(worse), EvaluatedRun.open(better)


def entry(found: dict, **wanted: str) -> dict:
    (one,) = [each for each in found["differences"] if wanted.items() <= each.items()]
    return one


def test_a_real_improvement_shows_and_what_did_not_change_does_not(runs: tuple) -> None:
    found = compare(*runs)
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


def test_settings_and_lineage_that_differ_are_named(runs: tuple) -> None:
    found = compare(*runs)
    assert {"setting": "fine.hidden", "values": [256, 64]} in found["settings"]
    assert {"setting": "seed", "values": [17, 18]} in found["settings"]
    assert all(each["values"][0] != each["values"][1] for each in found["settings"])
    assert {each["kind"]: each["same"] for each in found["lineage"]} == {"dataset": True, "ranker": False}


def test_runs_over_other_rows_are_shown_but_not_subtracted(runs: tuple, tmp_path: Path) -> None:
    whole = scored_rows(noise=0.5, training=1)
    part = EvaluatedRun.open(write_run(tmp_path / "part", whole.take(np.arange(5000)), recipe()))
    other = EvaluatedRun.open(write_run(tmp_path / "other", whole, recipe(), dataset="e" * 64))
    for run, reason in ((part, "different rows"), (other, "different datasets")):
        assert reason in str(why_not_paired(runs[0], run))
        found = compare(runs[0], run)
        assert not found["paired"]
        assert reason in found["reason"]
        assert found["differences"] == []
        assert any(each["values"][0] is not None for each in found["figures"])


def test_a_slice_without_rows_is_not_defined(tmp_path: Path) -> None:
    warm = scored_rows(noise=1.0, training=1)
    warm = warm.take(warm.train_events > 0)
    run = EvaluatedRun.open(write_run(tmp_path / "warm", warm, recipe()))
    cold = entry(compare(run, run), slice="cold", variant="fine", metric="gauc")
    assert (cold["delta"], cold["low"], cold["p"], cold["mde"]) == (None, None, None, None)


def test_an_evaluation_of_an_older_release_says_what_to_do(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "evaluation", "evaluation", {}, {}) as draft:
        (draft / "report.html").write_text("")
    with pytest.raises(UserError, match=r"keeps no scores.*evaluate again"):
        EvaluatedRun.open(tmp_path)
