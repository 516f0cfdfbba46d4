"""What travels with a job, and what is refused before a cluster is asked."""

import json
import os
from pathlib import Path

import pytest

from coldstart.cli.jobs import (
    ClusterJobs,
    _differing_sections,
    _runtime_environment,
    check_upload,
    make_absolute,
)
from coldstart.config import Recipe, UserError, load_recipe
from coldstart.config.recipe import Submit
from coldstart.config.runtime_env import RAY_DASHBOARD
from coldstart.config.shipped_recipes import find_recipe


def recipe(**submit: object) -> Recipe:
    return Recipe.model_validate({"name": "mine", "submit": submit})


def test_the_recipe_travels_in_a_variable_and_is_the_same_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = recipe(driver_cpus=2)
    variables = _runtime_environment(sent)["env_vars"]
    assert variables["COLDSTART_DRIVER_CPUS"] == "2"
    monkeypatch.setenv("COLDSTART_RECIPE", variables["COLDSTART_RECIPE"])
    assert load_recipe(find_recipe("env:COLDSTART_RECIPE")) == sent
    assert load_recipe(find_recipe("env:COLDSTART_RECIPE"), ["seed=3"]).seed == 3


def test_a_recipe_that_a_variable_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match="100000 are allowed"):
        _runtime_environment(recipe(metadata={"note": "x" * 100_000}))


def test_variables_travel_by_name_and_secrets_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("S3_PASSWORD", "hidden")
    environment = _runtime_environment(recipe(env=["MLFLOW_TRACKING_USERNAME"], secrets=["S3_PASSWORD"]))
    assert environment["env_vars"]["MLFLOW_TRACKING_USERNAME"] == "ann"
    assert "hidden" not in json.dumps(environment)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(UserError, match=r"submit.env names MLFLOW_TRACKING_USERNAME, which is not set here"):
        _runtime_environment(recipe(env=["MLFLOW_TRACKING_USERNAME"]))
    with pytest.raises(ValueError, match="without its value"):
        recipe(env=["TOKEN=abc"])


def test_a_working_directory_that_is_too_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x" * 3 * 2**20)
    (tmp_path / "code.py").write_text("pass")
    with pytest.raises(UserError, match=r"has 3 MB, 2 more than submit.max_upload_mb 1; .* weights.bin \(3 MB\)"):
        check_upload(tmp_path, 1)
    (tmp_path / ".rayignore").write_text("*.bin\n")
    check_upload(tmp_path, 1)
    with pytest.raises(UserError, match="is not a directory"):
        check_upload(tmp_path / "nowhere", 1)


def test_the_address_comes_from_option_recipe_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAY_DASHBOARD, "http://127.0.0.1:9")
    for address, settings, option in (
        ("http://127.0.0.1:9", Submit(), None),
        ("http://127.0.0.1:10", Submit(address="http://127.0.0.1:10"), None),
        ("http://127.0.0.1:11", Submit(address="http://127.0.0.1:10"), "http://127.0.0.1:11"),
    ):
        # The second address is the one that Ray has tried.
        with pytest.raises(UserError, match=rf"the Ray cluster at {address} is not reachable: .* {address}"):
            ClusterJobs(settings, option)
    assert os.environ[RAY_DASHBOARD] == "http://127.0.0.1:9"
    with pytest.raises(UserError, match="is not a dashboard's URL"):
        ClusterJobs(Submit(), "10.0.0.5:6379")


def test_a_header_takes_its_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROXY_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"submit.headers.Authorization: 'Bearer \$PROXY_TOKEN' names"):
        ClusterJobs(Submit(headers={"Authorization": "Bearer $PROXY_TOKEN"}))


def test_only_what_is_computed_counts_as_a_change() -> None:
    before = recipe()
    assert _differing_sections(before, recipe(driver_cpus=2)) == []
    assert _differing_sections(before, before.model_copy(update={"seed": 5})) == ["seed"]


def test_paths_are_absolute_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"root": "catalog", "images": {"root": "images-of-items"}}
    sent = make_absolute(Recipe.model_validate({"name": "mine", "data": {"source": "files", "files": files}}))
    assert sent.data.files.root == tmp_path / "catalog"
    assert sent.data.files.images.root == tmp_path / "images-of-items"
    assert make_absolute(Recipe(name="mine")).data.files.images.root is None
