"""The recipe line that serves what a comparison recommends."""

import pytest
import yaml

from coldstart.config import Recipe
from coldstart.jobs.analysis.contender_runs import METHOD_CONTENDERS, recipe_line, serving_settings
from coldstart.methods.baselines.contenders import CONTENDERS


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    method = {"coarse": {"batch": 32}, "fine": {"epochs": 2}}
    return Recipe.model_validate({"name": "any", "paths": {"runs": tmp_path}, "method": method})


@pytest.mark.parametrize(
    ("name", "setting", "line"),
    [
        ("oov", {}, "method: {name: baselines, use: oov}"),
        ("text_similarity", {"penalty": 10.0}, "method: {name: baselines, use: text_similarity, penalty: 10.0}"),
        (
            "ridge_map",
            {"penalty": 10.0},
            "method: {name: baselines, use: ridge_map, penalty: 10.0, coarse: {batch: 32}}",
        ),
        (
            "item_effect",
            {"learning_rate": 0.003},
            "method: {name: baselines, use: item_effect, coarse: {batch: 32}, fine: {epochs: 2, learning_rate: 0.003}}",
        ),
        (
            "joint",
            {"dropout": 0.1},
            "method: {name: idproxy, mode: joint, coarse: {batch: 32}, fine: {epochs: 2, dropout: 0.1}}",
        ),
        (
            "joint_plain",
            {},
            "method: {name: idproxy, mode: joint, coarse: {batch: 32}, "
            "fine: {joint: {structure_reuse: false}, epochs: 2}}",
        ),
        ("saviorrec", {"rank.id_dropout": 0.1}, "method: {name: saviorrec, rank: {id_dropout: 0.1}}"),
    ],
)
def test_the_line_of_a_recipe_serves_what_was_compared(recipe: Recipe, name: str, setting: dict, line: str) -> None:
    settings = serving_settings(recipe, recipe.method, name, setting)
    assert recipe_line(settings) == line
    values = yaml.safe_load(line)["method"]
    assert Recipe.model_validate({"name": "any", "method": values}).method == settings


def test_contenders_that_no_method_serves_have_no_line(recipe: Recipe) -> None:
    found = {name: serving_settings(recipe, recipe.method, name, (CONTENDERS[name].grid)[0]) for name in CONTENDERS} | {
        name: serving_settings(recipe, recipe.method, name, {}) for name in METHOD_CONTENDERS
    }
    without = {name for name, settings in found.items() if settings is None}
    assert without == {"fine_similarity", "content_feature", "content_slots"}
