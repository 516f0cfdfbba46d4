from pathlib import Path

import pytest

from coldstart.config import Recipe, UserError, write_artifact
from coldstart.jobs.pipeline import stages
from coldstart.jobs.stages import train_oracle


def _recipe(runs: Path, kind: str, **sections: dict) -> Recipe:
    return Recipe.model_validate(
        {"name": "small", "paths": {"runs": runs}, "data": {"split": {"kind": kind}}, **sections}
    )


def _names(recipe: Recipe) -> list[str]:
    return [stage.name for stage in stages(recipe)]


def test_the_pipeline_trains_an_oracle_only_with_an_item_holdout_and_its_own_ranker(tmp_path: Path) -> None:
    assert "train_oracle" not in _names(_recipe(tmp_path, "temporal"))
    holdout = _recipe(tmp_path, "item_holdout")
    assert _names(holdout)[-2:] == ["train_oracle", "evaluate"]
    assert "oracle" in stages(holdout)[-1].inputs
    imported = _recipe(tmp_path, "item_holdout", ranker={"pretrained": {"weights": tmp_path / "weights.safetensors"}})
    assert "train_oracle" not in _names(imported)


def test_a_temporal_split_is_refused(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "temporal")
    with write_artifact(recipe.run_dir / "dataset", "dataset", {}, {"split": {"kind": "temporal"}}) as draft:
        (draft / "items").mkdir()
    with pytest.raises(
        UserError,
        match=r"needs data\.split\.kind item_holdout, but .* split temporal: .*set data\.split\.kind: item_holdout",
    ):
        train_oracle.run(recipe)
