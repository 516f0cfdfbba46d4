"""Several seeds through the whole line, on as little data as it takes."""

from pathlib import Path

import pytest

from coldstart.config import Artifact, Recipe, UserError, read_artifact
from workloads import seeds

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    values = {
        "name": "tiny",
        "paths": {"runs": tmp_path_factory.mktemp("runs")},
        "data": {"generated": {"items": 120, "users": 80, "events": 6000, "picture_size": 32}},
        "cluster": {"workers": 1, "embed_actors": 1},
        "ranker": {"width": 8, "history": 20, "hidden": [8], "epochs": 1},
        "encoder": {"picture_size": 32},
        "coarse": {"epochs": 1, "min_events": 5, "batch": 16},
        "fine": {"epochs": 1, "hidden": 16},
        "evaluation": {"bootstrap": 50},
    }
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def put_together(local_ray: None, recipe: Recipe) -> Artifact:
    return seeds.run(recipe, count=2)


def _made(run: Path, kind: str) -> float:
    return (run / kind / "manifest.json").stat().st_mtime


def test_seeds_share_the_dataset_and_nothing_that_is_trained(put_together: Artifact, recipe: Recipe) -> None:
    other = recipe.run_dir / "seeds" / str(recipe.seed + 1)
    for kind, same in (("dataset", True), ("ranker", False), ("encoder", False), ("adaptor", False)):
        mine, theirs = (read_artifact(run / kind, kind).fingerprint for run in (recipe.run_dir, other))
        assert (mine == theirs) == same, kind
    assert put_together.about["seeds"] == [recipe.seed, recipe.seed + 1]
    evaluations = [read_artifact(run / "evaluation", "evaluation") for run in (recipe.run_dir, other)]
    assert list(put_together.lineage.values()) == [each.fingerprint for each in evaluations]
    fine = put_together.about["metrics"]["fine"]["all"]["gauc"]
    assert fine["by_seed"] == pytest.approx([each.about["metrics"]["fine"]["all"]["gauc"] for each in evaluations])
    page = (put_together.path / "report.html").read_text()
    assert "2 trainings on the same rows" in page
    assert (put_together.path / f"../seeds/{recipe.seed + 1}/evaluation/report.html").is_file()


def test_asked_again_nothing_is_trained_again(put_together: Artifact, recipe: Recipe) -> None:
    runs = (recipe.run_dir, recipe.run_dir / "seeds" / str(recipe.seed + 1))
    before = [_made(run, kind) for run in runs for kind in ("ranker", "encoder", "adaptor", "evaluation")]
    again = seeds.run(recipe, count=2)
    after = [_made(run, kind) for run in runs for kind in ("ranker", "encoder", "adaptor", "evaluation")]
    assert after == before
    assert again.about == put_together.about


def test_one_seed_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"--seeds 1 .*2 or more"):
        seeds.run(recipe, count=1)
