from pathlib import Path

import pytest
import yaml

from coldstart.config import Recipe, UserError, digest, dump_recipe, load_recipe
from coldstart.config.recipe import Serving
from workloads.job import RECIPES


def write(path: Path, **values: object) -> Path:
    file = path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", **values}))
    return file


def test_every_shipped_recipe_is_valid_and_opens_with_its_command():
    files = sorted(RECIPES.glob("*.yaml"))
    assert [file.stem for file in files] == ["demo", "movielens", "qwen2.5-vl-3b"]
    for file in files:
        recipe = load_recipe(file)
        assert recipe.name == file.stem
        first, second = file.read_text().splitlines()[:2]
        assert first.startswith("# ")
        assert "make demo" in second or "coldstart submit" in second


def test_override_reaches_a_nested_field(tmp_path):
    recipe = load_recipe(write(tmp_path), ["coarse.zero_stage=3", "ranker.hidden=[32, 16]", "paths.runs=/elsewhere"])
    assert recipe.coarse.zero_stage == 3
    assert recipe.ranker.hidden == (32, 16)
    assert recipe.run_dir == Path("/elsewhere/mine")


@pytest.mark.parametrize(
    ("values", "overrides", "words"),
    [
        ({"coarse": {"zero_stge": 2}}, [], ["zero_stge", "zero_stage"]),
        ({"rankr": {}}, [], ["rankr", "ranker"]),
        (
            {},
            ["encoder.dtype=bfloat16", "encoder.mllm=/models/m", "coarse.zero_stage=0"],
            ["coarse.zero_stage 0", "float32 copy", "coarse.zero_stage: 1"],
        ),
        ({}, ["coarse.zero_stage=7"], ["coarse.zero_stage", "7", "less than or equal to 3"]),
        ({}, ["coarse.zero_stage"], ["section.field=value"]),
        ({}, ["name.first=x"], ["name.first", "not a section"]),
        ({"content": {"picture": False, "text": False}}, [], ["content.picture", "content.text", "true"]),
        ({"coarse": {"batch": 127}}, [], ["coarse.batch", "127", "multiple of 2"]),
        (
            {"cluster": {"workers": 4, "min_workers": 2}},
            [],
            ["coarse.batch", "every number", "2", "4", "multiple of 12"],
        ),
        ({"cluster": {"workers": 2, "min_workers": 3}}, [], ["min_workers 3", "workers 2"]),
        ({"data": {"split": {"valid": 0.5, "test": 0.5}}}, [], ["split.valid", "0.8"]),
        ({"serving": {"min_replicas": 4}}, [], ["serving.max_replicas", "raise"]),
        ({"serving": {"preset": "fast"}}, [], ["serving.preset", "throughput"]),
        ({"serving": {"max_waiting": 600}}, [], ["serving.max_ongoing", "raise"]),
        ({"serving": {"scaling": {"upscale_delay_s": 3}}}, [], ["upscale_delay_s", "look_back_s"]),
    ],
)
def test_mistakes_are_named_with_the_fix(tmp_path, values, overrides, words):
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, **values), overrides)
    assert len(str(caught.value).splitlines()) <= 2
    for word in words:
        assert word in str(caught.value)


def test_missing_or_broken_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_the_dump_is_the_same_recipe(tmp_path):
    recipe = load_recipe(RECIPES / "movielens.yaml", ["seed=5"])
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_recipe(recipe))
    again = load_recipe(file)
    assert again == recipe
    assert digest(again) == digest(recipe)
    assert digest(again) != digest(Recipe(name="other"))


@pytest.mark.parametrize("preset", ["small", "latency", "throughput"])
def test_a_serving_preset_fills_what_the_recipe_leaves_open_and_survives_a_dump(preset):
    given = Serving(preset=preset, max_batch=3, scaling={"encoder": 5})
    assert (given.max_batch, given.scaling.encoder) == (3, 5)
    assert Serving(preset="throughput").max_batch > Serving().max_batch > Serving(preset="latency").max_batch
    assert Serving.model_validate(given.model_dump()) == given
