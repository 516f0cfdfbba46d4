from pathlib import Path

import pytest

from coldstart.config import Artifact, Recipe, UserError
from coldstart.data import schema
from coldstart.jobs.pipeline import PREPARE, check_modalities, inputs_digest
from coldstart.methods.idproxy.config import Settings


@pytest.fixture
def recipe(tmp_path):
    """A recipe that reads three files."""
    for table in ("items", "events", "users"):
        (tmp_path / f"{table}.csv").write_text("id\n1\n")
    columns = {"user_features": ["country"]}
    files = {"root": tmp_path, "items": "items.csv", "events": "events.csv", "users": "users.csv", "columns": columns}
    return Recipe.model_validate({"name": "mine", "data": {"source": "files", "files": files}})


@pytest.mark.parametrize("table", ["items", "events", "users"])
def test_prepare_runs_again_if_a_table_changed(recipe, table):
    before = inputs_digest(PREPARE, recipe, {})
    assert before == inputs_digest(PREPARE, recipe, {})
    with (recipe.data.files.root / f"{table}.csv").open("a") as file:
        file.write("2\n")
    assert before != inputs_digest(PREPARE, recipe, {})


def test_prepare_runs_again_if_the_layout_version_changed(recipe, monkeypatch):
    before = inputs_digest(PREPARE, recipe, {})
    monkeypatch.setattr(schema, "LAYOUT", schema.LAYOUT + 1)
    assert before != inputs_digest(PREPARE, recipe, {})


@pytest.mark.parametrize(
    ("modality", "counts", "has"),
    [
        ("image", {"with_image": 0, "with_title": 5, "with_text": 5}, False),
        ("image", {"with_image": 1, "with_title": 0, "with_text": 0}, True),
        ("text", {"with_image": 5, "with_title": 0, "with_text": 0}, False),
        ("text", {"with_image": 0, "with_title": 1, "with_text": 0}, True),
        ("text", {"with_image": 0, "with_title": 0, "with_text": 1}, True),
    ],
)
def test_a_dataset_without_what_the_method_reads_is_refused(monkeypatch, modality, counts, has):
    monkeypatch.setattr(Settings, "modalities", (modality,))
    dataset = Artifact(Path("dataset"), "dataset", "f", {}, {"items": 7, "text": counts})
    recipe = Recipe(name="any")
    if has:
        check_modalities(recipe, dataset)
        return
    with pytest.raises(UserError, match=f"reads the {modality} of items, but none of the 7 items of the dataset has"):
        check_modalities(recipe, dataset)
