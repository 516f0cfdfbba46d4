import pytest

from coldstart.config import Recipe
from coldstart.data import schema
from coldstart.jobs.pipeline import PREPARE, _inputs_digest


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
    before = _inputs_digest(PREPARE, recipe, {})
    assert before == _inputs_digest(PREPARE, recipe, {})
    with (recipe.data.files.root / f"{table}.csv").open("a") as file:
        file.write("2\n")
    assert before != _inputs_digest(PREPARE, recipe, {})


def test_prepare_runs_again_if_the_layout_version_changed(recipe, monkeypatch):
    before = _inputs_digest(PREPARE, recipe, {})
    monkeypatch.setattr(schema, "LAYOUT", schema.LAYOUT + 1)
    assert before != _inputs_digest(PREPARE, recipe, {})
