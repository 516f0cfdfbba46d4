import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from coldstart.config import Recipe, UserError
from coldstart.evaluation.report import render_seeds, seeds_table
from coldstart.evaluation.runs import EvaluatedRun
from coldstart.evaluation.seeds import crossed_draws, over_seeds
from tests.evaluation.diagnosed import DIAGNOSIS, interval
from tests.evaluation.evaluated import scored_rows, write_run

SEEDS = (17, 18, 19)


def _run(at: Path, seed: int, **given: object) -> EvaluatedRun:
    recipe = Recipe.model_validate({"name": str(seed), "seed": seed, "evaluation": {"bootstrap": 300}})
    return EvaluatedRun.open(write_run(at / str(seed), scored_rows(noise=1.5, training=seed), recipe, **given))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, EvaluatedRun]:
    at = tmp_path_factory.mktemp("seeds")
    return {seed: _run(at, seed) for seed in SEEDS}


def test_means_and_spreads_are_those_of_the_single_evaluations(runs: dict[int, EvaluatedRun]) -> None:
    found = over_seeds(runs)
    for metric in ("gauc", "gauc_item", "logloss"):
        single = [run.artifact.about["metrics"]["fine"]["cold"][metric] for run in runs.values()]
        fine = found["metrics"]["fine"]["cold"][metric]
        assert fine["by_seed"] == pytest.approx(single)
        assert fine["value"] == pytest.approx(np.mean(single))
        assert fine["spread"] == pytest.approx(np.std(single, ddof=1))
    assert found["seeds"] == list(SEEDS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_seeds_widen_the_interval_where_they_disagree_and_only_there(runs: dict[int, EvaluatedRun]) -> None:
    found = over_seeds(runs)
    single = runs[17].artifact.about
    fine, alone = found["metrics"]["fine"]["cold"]["gauc"], single["metrics"]["fine"]["cold"]
    assert fine["high"] - fine["low"] > 1.5 * (alone["gauc_high"] - alone["gauc_low"])
    oov = found["metrics"]["oov"]["cold"]["gauc"]
    assert oov["spread"] == 0


def test_what_picture_and_words_contribute_is_put_together_where_every_seed_says_it(
    runs: dict[int, EvaluatedRun],
) -> None:
    assert over_seeds(runs)["modalities"] is None

    def diagnosed(run: EvaluatedRun, lacks: float) -> EvaluatedRun:
        readings = DIAGNOSIS["modalities"]["readings"]
        told = readings | {"words": readings["words"] | {"lacks": interval(lacks)}}
        about = {**run.artifact.about, "diagnosis": {"modalities": {"readings": told}}}
        return replace(run, artifact=replace(run.artifact, about=about))

    lacking = {seed: diagnosed(runs[seed], lacks) for seed, lacks in zip(SEEDS, (0.01, 0.03, 0.05), strict=True)}
    assert over_seeds({**lacking, SEEDS[0]: runs[SEEDS[0]]})["modalities"] is None
    found = over_seeds(lacking)
    words = found["modalities"]["words"]["lacks"]
    assert words["value"] == pytest.approx(0.03)
    assert words["spread"] == pytest.approx(0.02)
    assert words["ranges"][0] == pytest.approx([-0.01, 0.03])
    page = render_seeds("demo", found, dict.fromkeys(SEEDS, Path("report.html")))
    assert "2 of 3 seeds" in page.split("words only")[1]


def test_the_table_for_people_has_mean_spread_and_interval_of_each_variant(runs: dict[int, EvaluatedRun]) -> None:
    found = over_seeds(runs)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(seeds_table(found))
    lines = console.export_text().splitlines()
    fine = next(line for line in lines if line.strip().startswith("fine")).split()
    cold = found["metrics"]["fine"]["cold"]["gauc_item"]
    assert fine[1:3] == [f"{cold['value']:.3f}", f"{cold['spread']:.3f}"]
    assert "to" in fine
    assert max(map(len, lines)) <= 80


def test_comparisons_are_corrected_within_slice_metric_and_opponent(runs: dict[int, EvaluatedRun]) -> None:
    entries = over_seeds(runs)["comparisons"]
    family = [e for e in entries if (e["slice"], e["metric"], e["against"]) == ("cold", "gauc", "oov")]
    assert {e["variant"] for e in family} == {"id", "mlp_map", "coarse", "fine"}
    tested = [e for e in family if e["p"] is not None]
    smallest = min(tested, key=lambda e: e["p"])
    assert smallest["p_holm"] == pytest.approx(min(len(tested) * smallest["p"], 1))
    assert next(e for e in family if e["variant"] == "id")["p"] is None


def test_the_interval_over_seeds_and_users_covers_about_as_often_as_it_says() -> None:
    """Five seeds whose spread is as large as the users'; without the stretch this covers about four times in five."""
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        of_seeds = rng.normal(0, 1, 5)
        users = rng.normal(0, 0.5)
        draws = of_seeds[:, None] + users + rng.normal(0, 0.5, 400)
        low, high = np.quantile(crossed_draws(draws, confidence=0.95, seed=trial), [0.025, 0.975])
        covered += low <= 0 <= high
    assert 184 <= covered <= 199


def test_seeds_over_different_rows_are_refused(runs: dict[int, EvaluatedRun], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seeds 17 and 20 cannot be put together: .*different datasets"):
        over_seeds(runs | {20: _run(tmp_path, 20, dataset="e" * 64)})
