import pytest

from coldstart.config import Recipe
from coldstart.data import contract
from workloads.pipeline import PREPARE, _inputs


@pytest.fixture
def recipe(tmp_path):
    """Reads three tables of a user."""
    for table in ("items", "events", "users"):
        (tmp_path / f"{table}.csv").write_text("id\n1\n")
    columns = {"user_features": ["country"]}
    files = {"root": tmp_path, "items": "items.csv", "events": "events.csv", "users": "users.csv", "columns": columns}
    return Recipe.model_validate({"name": "mine", "data": {"source": "files", "files": files}})


@pytest.mark.parametrize("table", ["items", "events", "users"])
def test_a_changed_table_is_prepared_anew(recipe, table):
    before = _inputs(PREPARE, recipe, {})
    assert before == _inputs(PREPARE, recipe, {})
    with (recipe.data.files.root / f"{table}.csv").open("a") as file:
        file.write("2\n")
    assert before != _inputs(PREPARE, recipe, {})


def test_what_an_earlier_release_prepared_is_prepared_anew(recipe, monkeypatch):
    before = _inputs(PREPARE, recipe, {})
    monkeypatch.setattr(contract, "LAYOUT", contract.LAYOUT + 1)
    assert before != _inputs(PREPARE, recipe, {})
