from pathlib import Path

import pytest

from coldstart.config import Recipe, UserError, write_artifact
from workloads import train_oracle
from workloads.pipeline import stages


def _recipe(runs: Path, kind: str, **sections: dict) -> Recipe:
    return Recipe.model_validate(
        {"name": "small", "paths": {"runs": runs}, "data": {"split": {"kind": kind}}, **sections}
    )


def _names(recipe: Recipe) -> list[str]:
    return [stage.name for stage in stages(recipe)]


def test_the_pipeline_trains_an_oracle_only_where_items_are_held_out_from_a_ranker_of_ours(tmp_path: Path) -> None:
    assert "train_oracle" not in _names(_recipe(tmp_path, "temporal"))
    held = _recipe(tmp_path, "item_holdout")
    assert _names(held)[-2:] == ["train_oracle", "evaluate"]
    assert "oracle" in stages(held)[-1].upstream
    brought = _recipe(tmp_path, "item_holdout", bring={"weights": tmp_path / "weights.safetensors"})
    assert "train_oracle" not in _names(brought)


def test_a_split_by_time_has_no_early_events_to_train_on(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "temporal")
    with write_artifact(recipe.run_dir / "dataset", "dataset", {}, {"split": {"kind": "temporal"}}) as draft:
        (draft / "items").mkdir()
    with pytest.raises(UserError, match=r"split temporal: .* needs data\.split\.kind: item_holdout"):
        train_oracle.run(recipe)
