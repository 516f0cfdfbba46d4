from pathlib import Path

import pytest

from coldstart.config import MetricsLog, Recipe
from coldstart.training.stage import TrainingStage

INPUTS = {"dataset": "f" * 64}


def recipe(runs: Path | str, **settings: object) -> Recipe:
    return Recipe.model_validate({"name": "mine", "paths": {"runs": str(runs)}, "cluster": {"workers": 1}, **settings})


def leave_a_trace(stage: TrainingStage) -> None:
    """A rank: what it was given, and what it finds."""
    stage.checkpoints.mkdir(parents=True)
    (stage.run_dir / "trace").write_text(f"{stage.name} {stage.recipe.seed} {stage.options['word']}")


@pytest.mark.ray
def test_ranks_find_a_run_directory_that_is_relative_to_the_driver(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = TrainingStage.of(recipe("runs", seed=5), "practice", [1], {}, word="hello")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    stage.metrics_log.write(7, 9, note="of an earlier training")
    stage.run(leave_a_trace, epochs=4)
    assert (tmp_path / "runs" / "mine" / "trace").read_text() == "practice 5 hello"
    (line,) = MetricsLog(tmp_path / "runs" / "mine" / "metrics" / "practice.jsonl").read()
    assert (line["done"], line["total"]) == (0, 4)
    assert not stage.checkpoints.parent.exists()


def test_only_the_same_settings_seed_and_inputs_continue_a_training(tmp_path: Path) -> None:
    same = TrainingStage.of(recipe(tmp_path), "practice", [1, "a"], INPUTS)
    assert TrainingStage.of(recipe(tmp_path), "practice", [1, "a"], INPUTS, word="x").checkpoints == same.checkpoints
    for other in (
        TrainingStage.of(recipe(tmp_path), "practice", [2, "a"], INPUTS),
        TrainingStage.of(recipe(tmp_path, seed=4), "practice", [1, "a"], INPUTS),
        TrainingStage.of(recipe(tmp_path), "practice", [1, "a"], {"dataset": "0" * 64}),
    ):
        assert other.checkpoints != same.checkpoints
    for context in (same.click_training, same.contrastive_training):
        assert context.seed == same.recipe.seed
        assert context.checkpoints == same.checkpoints
        assert context.metrics_log is not None
        assert context.metrics_log.path == tmp_path / "mine" / "metrics" / "practice.jsonl"
    assert same.contrastive_training.key == same.key
