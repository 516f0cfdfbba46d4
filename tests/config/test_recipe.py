from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from coldstart.config import Recipe, UserError, digest, dump_recipe, load_recipe, store_recipe
from coldstart.config.recipe import Serving, Store
from coldstart.config.recipe.synonyms import SYNONYMS
from coldstart.config.section import Section
from coldstart.config.shipped_recipes import RECIPES


def write(path: Path, **values: object) -> Path:
    file = path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", **values}))
    return file


def test_a_method_name_with_a_typo_names_the_nearest():
    with pytest.raises(ValueError, match=r"no method 'idprxy'; did you mean 'idproxy'\? allowed: idproxy"):
        Recipe.model_validate({"name": "any", "method": {"name": "idprxy"}})


def test_every_shipped_recipe_is_valid_and_starts_with_its_command():
    files = sorted(RECIPES.glob("*.yaml"))
    assert [file.stem for file in files] == ["demo", "movielens-pretrained", "movielens", "qwen2.5-vl-3b", "sparse"]
    for file in files:
        recipe = load_recipe(file)
        assert recipe.name == file.stem
        first, second = file.read_text().splitlines()[:2]
        assert first.startswith("# ")
        assert "make demo" in second or "coldstart submit" in second


def test_override_reaches_a_nested_field(tmp_path):
    recipe = load_recipe(
        write(tmp_path), ["method.coarse.zero_stage=3", "ranker.mlp_units=[32, 16]", "paths.runs=/elsewhere"]
    )
    assert recipe.method.coarse.zero_stage == 3
    assert recipe.ranker.mlp_units == (32, 16)
    assert recipe.run_dir == Path("/elsewhere/mine")


@pytest.mark.parametrize(
    ("values", "overrides", "words"),
    [
        ({"method": {"coarse": {"zero_stge": 2}}}, [], ["zero_stge", "zero_stage"]),
        ({"rankr": {}}, [], ["rankr", "ranker"]),
        (
            {},
            ["encoder.dtype=bfloat16", "encoder.mllm=/models/m", "method.coarse.zero_stage=0"],
            ["method.coarse.zero_stage 0", "float32 copy", "method.coarse.zero_stage: 1"],
        ),
        ({}, ["method.coarse.zero_stage=7"], ["method.coarse.zero_stage", "7", "less than or equal to 3"]),
        ({}, ["method.coarse.zero_stage"], ["section.field=value"]),
        ({}, ["name.first=x"], ["name.first", "not a section"]),
        ({"content": {"use_image": False, "use_text": False}}, [], ["content.use_image", "content.use_text", "true"]),
        ({"method": {"coarse": {"batch": 127}}}, [], ["method.coarse.batch", "127", "multiple of 2"]),
        (
            {"cluster": {"workers": 4, "min_workers": 2}},
            [],
            ["method.coarse.batch", "every number", "2", "4", "multiple of 12"],
        ),
        ({"cluster": {"workers": 2, "min_workers": 3}}, [], ["min_workers 3", "workers 2"]),
        ({"data": {"split": {"valid": 0.5, "test": 0.5}}}, [], ["split.valid", "0.8"]),
        ({"serving": {"min_replicas": 4}}, [], ["serving.max_replicas", "raise"]),
        ({"serving": {"preset": "fast"}}, [], ["serving.preset", "throughput"]),
        ({"serving": {"max_queue": 600}}, [], ["serving.max_ongoing_requests", "raise"]),
        ({"serving": {"scaling": {"upscale_delay_s": 3}}}, [], ["upscale_delay_s", "look_back_period_s"]),
    ],
)
def test_errors_name_the_fix(tmp_path, values, overrides, words):
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, **values), overrides)
    assert len(str(caught.value).splitlines()) <= 2
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ranker.lr=0.1", ["'lr'", "use ranker.learning_rate"]),
        ("method.coarse.lr=0.1", ["use method.coarse.learning_rate"]),
        ("method.fine.joint.lr=0.1", ["use method.fine.joint.ranker_lr"]),
        ("lr=0.1", ["ranker.learning_rate or method.coarse.learning_rate or method.fine.learning_rate"]),
        ("learning_rate=0.1", ["ranker.learning_rate or method.coarse.learning_rate or method.fine.learning_rate"]),
        ("ranker.batch_size=64", ["use ranker.windows_per_step"]),
        ("method.coarse.batch_size=64", ["use method.coarse.batch"]),
        ("serving.batch_size=64", ["use serving.max_batch"]),
        ("batch_size=64", ["ranker.windows_per_step or method.coarse.batch or method.fine.windows_per_step"]),
        ("content.image=false", ["use content.use_image"]),
        ("image=false", ["use content.use_image"]),
        ("picture=false", ["use content.use_image"]),
        ("data.files.columns.picture=poster", ["use data.files.columns.image"]),
        ("encoder.picture_size=64", ["use encoder.image_size"]),
        ("ranker.dim=8", ["use ranker.embedding_dim"]),
        ("ranker.embedding_size=8", ["use ranker.embedding_dim"]),
        ("ranker.num_layers=3", ["use ranker.cross_layers"]),
        ("method.coarse.dropout=0.1", ["use method.coarse.token_dropout"]),
        ("encoder.dropout=0.1", ["use encoder.lora.dropout"]),
        ("method.fine.n_epochs=3", ["use method.fine.epochs"]),
        ("method.coarse.num_epochs=3", ["use method.coarse.epochs"]),
        ("coarse.epochs=3", ["use method.coarse"]),
        ("fine.epochs=3", ["use method.fine"]),
        ("method.type=idproxy", ["use method.name"]),
        ("ranker.seed=3", ["use seed"]),
        ("random_seed=3", ["use seed"]),
    ],
)
def test_a_synonym_is_refused_with_the_right_key(tmp_path, override, words):
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path), [override])
    for word in words:
        assert word in str(caught.value)


def _fields(section: str) -> dict:
    """Fields of the section at a dotted path."""
    model = Recipe
    for name in filter(None, section.split(".")):
        kind = model.model_fields[name].annotation
        model = next(one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel))
    return model.model_fields


def test_every_synonym_names_a_setting_and_is_not_a_setting_itself():
    for section, keys in SYNONYMS.items():
        for key, words in keys.items():
            parent, _, name = f"{section}.{key}".strip(".").rpartition(".")
            assert name in _fields(parent), (section, key)
            for word in words:
                assert word not in _fields(section), (section, word)


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
def test_a_serving_preset_sets_only_missing_fields_and_survives_a_dump(preset):
    serving = Serving(preset=preset, max_batch=3, scaling={"encoder": 5})
    assert (serving.max_batch, serving.scaling.encoder) == (3, 5)
    assert Serving(preset="throughput").max_batch > Serving().max_batch > Serving(preset="latency").max_batch
    assert Serving.model_validate(serving.model_dump()) == serving


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["registry.project=ads/ctr"], ["registry.project", "'ads/ctr'", "letters a-z"]),
        (["registry.project=Tom's shop"], ["registry.project", "Tom's shop"]),
        (["registry.project='a:b'"], ["registry.project", "'a:b'"]),
        (["name=.hidden"], ["name", "'.hidden'"]),
        (["name=''"], ["name", "''"]),
        (["name=" + "a" * 65], ["name", "1 to 64"]),
        (["data.files.root=s3://bucket/catalog"], ["data.files.root", "s3", "path on a file system"]),
        (["paths.runs=file:///tmp/runs"], ["paths.runs", "file", "path on a file system"]),
        (["paths.runs=$NOT_SET_ANYWHERE/runs"], ["paths.runs", "$NOT_SET_ANYWHERE", "not set"]),
        (["paths.runs=~nobody-of-this-name/runs"], ["paths.runs", "home directory"]),
    ],
)
def test_names_and_addresses_that_fail_later_are_refused(tmp_path, overrides, words):
    with pytest.raises(UserError) as refused:
        load_recipe(write(tmp_path), overrides)
    for word in words:
        assert word in str(refused.value)


def test_home_and_variables_in_paths_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHOP", "shop 1")
    recipe = load_recipe(write(tmp_path), ["data.files.root=~/data", "paths.runs=${SHOP}/runs"])
    assert recipe.data.files.root == tmp_path / "home" / "data"
    assert recipe.paths.runs == Path("shop 1/runs")
    assert load_recipe(write(tmp_path), ["paths.runs=a:/b"]).paths.runs == Path("a:/b")


def test_an_empty_recipe_says_what_it_needs(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    with pytest.raises(UserError, match="is empty; it needs at least"):
        load_recipe(tmp_path / "empty.yaml")


def test_a_run_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    recipe = load_recipe(write(tmp_path), [f"paths.runs={tmp_path / 'file'}"])
    with pytest.raises(UserError, match=r"file/mine is not writable .*set paths.runs"):
        store_recipe(recipe)


def test_paths_survive_json() -> None:
    store = Store(kind="redis", redis_url="redis://127.0.0.1:6379/0", redis_password_file=Path("secrets/password"))
    assert Store.model_validate_json(store.model_dump_json()) == store


def test_setting_one_key_of_a_section_leaves_the_defaults_of_its_other_keys():
    checked = 0
    for section in sections(Section):
        for name, field in section.model_fields.items():
            if isinstance(field.default, Section):
                assert field.default == type(field.default)(), f"{section.__name__}.{name}"
                checked += 1
    assert checked > 20


def sections(kind: type[Section]) -> Iterator[type[Section]]:
    for child in kind.__subclasses__():
        yield child
        yield from sections(child)
