"""Recipes of contenders, and what they take over from other runs of a comparison."""

from pathlib import Path

import pytest

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe.method import SETTINGS
from coldstart.jobs import pipeline
from coldstart.jobs.analysis.contender_runs import METHOD_CONTENDERS, contender_recipe, method_recipe
from coldstart.jobs.pipeline import link_artifact, run_outdated_stages, stage_seconds
from coldstart.methods.base import Stage

POINT = {"rank.learning_rate": 0.003}


def compared(tmp_path: Path, **values: object) -> Recipe:
    return Recipe.model_validate({"name": "shop", "paths": {"runs": tmp_path}, **values})


def test_a_contender_has_the_data_of_the_run_and_its_own_directory(tmp_path: Path) -> None:
    recipe = compared(tmp_path, seed=5, comparison={"saviorrec": {"rank": {"epochs": 3}}})
    found = contender_recipe(recipe, "saviorrec_shuffled", POINT)
    assert found.run_dir.parent == recipe.run_dir / "contenders"
    assert (found.seed, found.data, found.ranker) == (5, recipe.data, recipe.ranker)
    assert (found.tracking_uri, found.project) == (recipe.tracking_uri, recipe.project)
    assert found.method.name == "saviorrec"
    assert found.method.rank.epochs == 3
    assert found.method.rank.ablate.shuffled_codes
    assert found.method.rank.learning_rate == 0.003


def test_equal_settings_have_equal_directories(tmp_path: Path) -> None:
    recipe = compared(tmp_path)
    directories = {contender_recipe(recipe, "saviorrec", POINT).run_dir for _ in range(2)}
    others = {contender_recipe(recipe, name, POINT).run_dir for name in ("saviorrec_shuffled", "saviorrec_summed")}
    assert len(directories) == 1
    assert len(directories | others) == 3


def test_the_recipes_own_method_keeps_its_settings(tmp_path: Path) -> None:
    recipe = compared(tmp_path, method={"name": "mim", "interest": {"epochs": 2}})
    assert method_recipe(recipe, "mim", {}, folder="a").method.interest.epochs == 2
    assert method_recipe(recipe, "idproxy", {}, folder="a").method == SETTINGS["idproxy"]()


def test_a_change_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contender x: method\.rank\.epochs: .*greater than 0"):
        method_recipe(compared(tmp_path), "saviorrec", {"rank.epochs": 0}, folder="x")


@pytest.mark.parametrize("name", METHOD_CONTENDERS)
def test_every_configuration_is_valid_and_follows_one_that_is_tuned(tmp_path: Path, name: str) -> None:
    method, info = METHOD_CONTENDERS[name]
    tuned = METHOD_CONTENDERS[info.tuned_as or name]
    assert tuned[0] == method
    assert tuned[1].tuned_as is None
    assert len(tuned[1].grid) == 4
    for point in tuned[1].grid:
        assert contender_recipe(compared(tmp_path), name, point).method.name == method


def write(recipe: Recipe, kind: str, made: list[str]) -> Artifact:
    made.append(f"{recipe.name}/{kind}")
    with write_artifact(recipe.run_dir / kind, kind, {}, {"epochs": recipe.method.fine.epochs}) as draft:
        (draft / "file").write_text(kind)
    return read_artifact(recipe.run_dir / kind, kind)


def test_a_stage_with_equal_inputs_is_linked_and_one_with_others_is_run(tmp_path: Path, monkeypatch) -> None:
    made: list[str] = []
    stages = (
        Stage("first", "one", lambda recipe: write(recipe, "one", made), ("ranker",)),
        Stage("second", "two", lambda recipe: write(recipe, "two", made), ("method.fine",), ("one",)),
    )
    monkeypatch.setattr(pipeline, "stages", lambda recipe: stages)
    monkeypatch.setattr(pipeline, "run_stage", lambda name, run, recipe: run(recipe))
    first, second, third = (compared(tmp_path).model_copy(update={"name": name}) for name in ("a", "b", "c"))
    fine = second.method.fine.model_copy(update={"epochs": 99})
    second = second.model_copy(update={"method": second.method.model_copy(update={"fine": fine})})
    run_outdated_stages(first)
    run_outdated_stages(second, lenders=[first.run_dir])
    run_outdated_stages(third, lenders=[second.run_dir, first.run_dir])
    assert made == ["a/one", "a/two", "b/two"]
    assert (second.run_dir / "one").is_symlink()
    assert not (second.run_dir / "two").is_symlink()
    assert (third.run_dir / "two").resolve() == (first.run_dir / "two").resolve()
    assert stage_seconds(third.run_dir, ["first"]) == stage_seconds(first.run_dir, ["first"])

    changed = third.model_copy(update={"method": second.method})
    run_outdated_stages(changed)
    assert made[-1] == "c/two"
    assert not (third.run_dir / "two").is_symlink()
    assert (first.run_dir / "two" / "file").read_text() == "two"


def test_a_link_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    (tmp_path / "run" / "kind").mkdir(parents=True)
    for name in ("old", "new"):
        link_artifact(tmp_path / name, tmp_path / "run" / "kind")
        assert [path.name for path in (tmp_path / "run" / "kind").iterdir()] == [name]
    assert (tmp_path / "old" / "old").exists()
