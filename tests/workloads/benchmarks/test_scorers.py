"""The benchmark of the methods' scorers."""

from pathlib import Path

import pytest

from coldstart.config import Recipe
from coldstart.data.dataset import Dataset
from coldstart.jobs.stages import prepare
from workloads.benchmarks import scorers
from workloads.benchmarks.scorers import FROZEN, MIM, RANKER, SAVIORREC, Figures


@pytest.mark.ray
def test_every_scorer_is_trained_and_scores_rows_and_requests(tmp_path: Path, local_ray: None, monkeypatch) -> None:
    generated = {"items": 80, "users": 30, "events": 1200, "weeks": 2, "image_size": 16}
    recipe = Recipe.model_validate({"name": "speed", "paths": {"runs": tmp_path}, "data": {"generated": generated}})
    prepare.run(recipe)
    for name, value in {"ROUNDS": 1, "REQUESTS": 2, "REQUESTS_PER_TURN": 1}.items():
        monkeypatch.setattr(scorers, name, value)
    found = scorers.measure(recipe, Dataset.open(recipe.run_dir / "dataset"))
    assert list(found) == [RANKER, SAVIORREC, FROZEN, MIM]
    for figures in found.values():
        assert [len(figures.train), len(figures.score), len(figures.request)] == [1, 1, 2]
        assert min(figures.medians()) > 0


def test_the_table_has_ratios_to_the_ranker() -> None:
    found = {RANKER: Figures([100.0], [1000.0], [1.0, 2.0, 3.0]), MIM: Figures([50.0], [400.0], [3.0])}
    text = scorers.section(Recipe(name="mine"), found)
    assert "| ranker | 100 | 1.00 | 1,000 | 1.00 | 2.00 | 1.00 |" in text
    assert "| MIM | 50 | 0.50 | 400 | 0.40 | 3.00 | 1.50 |" in text
