import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from coldstart.config import Recipe, UserError
from coldstart.evaluation.compare.evaluated_runs import EvaluatedRun
from coldstart.evaluation.compare.seed_aggregation import aggregate_seeds, seed_user_draws
from coldstart.evaluation.report.run_report import render_seeds, seeds_table
from tests.evaluation.diagnosed import DIAGNOSTICS, interval
from tests.evaluation.evaluated import scored_rows, write_run

SEEDS = (17, 18, 19)


def _run(at: Path, seed: int, **options: object) -> EvaluatedRun:
    recipe = Recipe.model_validate({"name": str(seed), "seed": seed, "evaluation": {"num_resamples": 300}})
    return EvaluatedRun.open(write_run(at / str(seed), scored_rows(noise=1.5, training=seed), recipe, **options))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, EvaluatedRun]:
    at = tmp_path_factory.mktemp("seeds")
    return {seed: _run(at, seed) for seed in SEEDS}


def test_means_and_spreads_are_those_of_the_single_evaluations(runs: dict[int, EvaluatedRun]) -> None:
    found = aggregate_seeds(runs)
    for metric in ("gauc", "gauc_item", "logloss"):
        single = [run.artifact.metadata["metrics"]["fine"]["cold"][metric] for run in runs.values()]
        fine = found["metrics"]["fine"]["cold"][metric]
        assert fine["by_seed"] == pytest.approx(single)
        assert fine["value"] == pytest.approx(np.mean(single))
        assert fine["spread"] == pytest.approx(np.std(single, ddof=1))
    assert found["seeds"] == list(SEEDS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_disagreeing_seeds_widen_the_interval(runs: dict[int, EvaluatedRun]) -> None:
    found = aggregate_seeds(runs)
    single = runs[17].artifact.metadata
    fine, alone = found["metrics"]["fine"]["cold"]["gauc"], single["metrics"]["fine"]["cold"]
    assert fine["high"] - fine["low"] > 1.5 * (alone["gauc_high"] - alone["gauc_low"])
    oov = found["metrics"]["oov"]["cold"]["gauc"]
    assert oov["spread"] == 0


def test_modalities_are_aggregated_if_every_seed_has_them(
    runs: dict[int, EvaluatedRun],
) -> None:
    assert aggregate_seeds(runs)["modalities"] is None

    def diagnosed(run: EvaluatedRun, drop: float) -> EvaluatedRun:
        inputs = DIAGNOSTICS["modalities"]["inputs"]
        changed = inputs | {"text": inputs["text"] | {"drop": interval(drop)}}
        metadata = {**run.artifact.metadata, "diagnostics": {"modalities": {"inputs": changed}}}
        return replace(run, artifact=replace(run.artifact, metadata=metadata))

    diagnosed_runs = {seed: diagnosed(runs[seed], drop) for seed, drop in zip(SEEDS, (0.01, 0.03, 0.05), strict=True)}
    assert aggregate_seeds({**diagnosed_runs, SEEDS[0]: runs[SEEDS[0]]})["modalities"] is None
    found = aggregate_seeds(diagnosed_runs)
    drop = found["modalities"]["text"]["drop"]
    assert drop["value"] == pytest.approx(0.03)
    assert drop["spread"] == pytest.approx(0.02)
    assert drop["ranges"][0] == pytest.approx([-0.01, 0.03])
    page = render_seeds("demo", found, dict.fromkeys(SEEDS, Path("report.html")))
    assert "2 of 3 seeds" in page.split("text only")[1]


def test_the_terminal_table_has_mean_spread_and_interval_of_each_variant(runs: dict[int, EvaluatedRun]) -> None:
    found = aggregate_seeds(runs)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(seeds_table(found))
    lines = console.export_text().splitlines()
    fine = next(line for line in lines if line.strip().startswith("fine")).split()
    cold = found["metrics"]["fine"]["cold"]["gauc_item"]
    assert fine[1:3] == [f"{cold['value']:.3f}", f"{cold['spread']:.3f}"]
    assert "to" in fine
    assert max(map(len, lines)) <= 80


def test_comparisons_are_corrected_within_slice_metric_and_baseline(runs: dict[int, EvaluatedRun]) -> None:
    entries = aggregate_seeds(runs)["comparisons"]
    family = [e for e in entries if (e["slice"], e["metric"], e["against"]) == ("cold", "gauc", "oov")]
    assert {e["variant"] for e in family} == {"id", "content_map", "coarse", "fine"}
    tested = [e for e in family if e["p"] is not None]
    smallest = min(tested, key=lambda e: e["p"])
    assert smallest["p_holm"] == pytest.approx(min(len(tested) * smallest["p"], 1))
    assert next(e for e in family if e["variant"] == "id")["p"] is None


def test_the_interval_over_seeds_and_users_covers_at_its_confidence() -> None:
    """Five seeds with as much spread as the users. Without the stretch, coverage is about 80 %."""
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        of_seeds = rng.normal(0, 1, 5)
        users = rng.normal(0, 0.5)
        draws = of_seeds[:, None] + users + rng.normal(0, 0.5, 400)
        low, high = np.quantile(seed_user_draws(draws, confidence=0.95, seed=trial), [0.025, 0.975])
        covered += low <= 0 <= high
    assert 184 <= covered <= 199


def test_seeds_over_different_rows_are_refused(runs: dict[int, EvaluatedRun], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seeds 17 and 20 cannot be aggregated: .*different datasets"):
        aggregate_seeds(runs | {20: _run(tmp_path, 20, dataset="e" * 64)})
