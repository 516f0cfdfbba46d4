"""Trains and evaluates several seeds on a tiny dataset."""

from pathlib import Path

import pytest

from coldstart.config import Artifact, Recipe, UserError, read_artifact
from coldstart.jobs.analysis import multi_seed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    values = {
        "name": "tiny",
        "mature_events": 5,
        "paths": {"runs": tmp_path_factory.mktemp("runs")},
        "data": {"generated": {"items": 120, "users": 80, "events": 6000, "image_size": 32}},
        "cluster": {"workers": 1, "embed_actors": 1},
        "ranker": {"embedding_dim": 8, "max_history": 20, "mlp_units": [8], "epochs": 1},
        "encoder": {"image_size": 32},
        "method": {"coarse": {"epochs": 1, "batch": 16}, "fine": {"epochs": 1, "mlp_units": 16}},
        "evaluation": {"num_resamples": 50},
    }
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def aggregated(local_ray: None, recipe: Recipe) -> Artifact:
    return multi_seed.run(recipe, count=2)


def _written_at(run: Path, kind: str) -> float:
    return (run / kind / "manifest.json").stat().st_mtime


def test_seeds_share_the_dataset_but_no_trained_artifact(aggregated: Artifact, recipe: Recipe) -> None:
    other = recipe.run_dir / "seeds" / str(recipe.seed + 1)
    for kind, same in (("dataset", True), ("ranker", False), ("encoder", False), ("scorer", False)):
        first, second = (read_artifact(run / kind, kind).fingerprint for run in (recipe.run_dir, other))
        assert (first == second) == same, kind
    assert aggregated.metadata["seeds"] == [recipe.seed, recipe.seed + 1]
    evaluations = [read_artifact(run / "evaluation", "evaluation") for run in (recipe.run_dir, other)]
    assert list(aggregated.lineage.values()) == [each.fingerprint for each in evaluations]
    fine = aggregated.metadata["metrics"]["fine"]["all"]["gauc"]
    assert fine["by_seed"] == pytest.approx([each.metadata["metrics"]["fine"]["all"]["gauc"] for each in evaluations])
    page = (aggregated.path / "report.html").read_text()
    assert "2 trainings on the same rows" in page
    assert (aggregated.path / f"../seeds/{recipe.seed + 1}/evaluation/report.html").is_file()


def test_a_second_run_trains_nothing(aggregated: Artifact, recipe: Recipe) -> None:
    runs = (recipe.run_dir, recipe.run_dir / "seeds" / str(recipe.seed + 1))
    before = [_written_at(run, kind) for run in runs for kind in ("ranker", "encoder", "scorer", "evaluation")]
    again = multi_seed.run(recipe, count=2)
    after = [_written_at(run, kind) for run in runs for kind in ("ranker", "encoder", "scorer", "evaluation")]
    assert after == before
    assert again.metadata == aggregated.metadata


def test_one_seed_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"--seeds 1 .*2 or more"):
        multi_seed.run(recipe, count=1)
