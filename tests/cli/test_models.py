"""The commands for registered models, on a real registry with real tiny models."""

import json
from pathlib import Path

import pytest

from coldstart.config import dump_recipe
from coldstart.registry import Registry
from coldstart.registry.promotion_log import BODY
from tests.cli.conftest import Command
from tests.serving.tiny import register_run, tiny_recipe, write_run


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scorer versions of one project: a run, registered with two seeds."""
    runs = tmp_path_factory.mktemp("runs")
    recipe = tiny_recipe(runs, "verbs")
    for seed in (1, 2):
        seeded = recipe.model_copy(update={"seed": seed})
        write_run(seeded)
        register_run(seeded, Registry(recipe.tracking_uri, recipe.project))
    file = runs / "verbs.yaml"
    file.write_text(dump_recipe(recipe))
    return file


def test_life_of_a_release(coldstart: Command, recipe_file: Path) -> None:
    def run(*words: str) -> object:
        done = coldstart(*words, "--recipe", str(recipe_file), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    plan = run("promote", "scorer", "1", "--dry-run")
    assert [gate["name"] for gate in plan["gates"]] == [
        "complete release",
        "schema",
        "cold quality",
        "warm quality",
        "log loss",
        "ranking cost",
        "online-offline gap",
    ]
    assert run("history")["events"] == []
    assert run("promote", "scorer", "1", "--reason", "first")["action"] == "promoted"
    assert run("promote", "scorer", "2", "--to", "challenger")["versions"]["ranker"] == 2
    assert run("promote", "scorer", "2")["previous"] == 1
    assert [row["aliases"] for row in run("models") if row["kind"] == "scorer"] == [["challenger", "champion"], []]
    nodes = run("lineage", "scorer@champion")
    assert [(node["kind"], node["version"]) for node in nodes] == [
        ("scorer", 2),
        ("item_table", None),
        ("encoder", 2),
        ("ranker", 2),
        ("dataset", None),
    ]
    assert nodes[-1]["fingerprint"] == "d" * 64
    assert run("rollback", "scorer", "--reason", "complaints")["version"] == 1
    assert run("gc", "--keep", "1") == {
        "deleted": {"ranker": [], "encoder": [], "quantizer": [], "scorer": []},
        "dry_run": False,
    }
    assert run("stop-challenger", "--reason", "slow")["previous"] == 2
    log = run("history")
    assert [logged["reason"] for logged in log["events"]] == ["first", "", "", "complaints", "slow"]
    assert [(one["alias"], one["version"], one["status"]) for one in log["aliases"]] == [
        ("champion", 1, "in sync with the log"),
        ("challenger", None, "not set"),
    ]


def test_history_detects_a_changed_event(coldstart: Command, recipe_file: Path) -> None:
    promotion_log = Registry(f"sqlite:///{recipe_file.parent / 'mlflow.db'}", "verbs").promotion_log
    body = promotion_log.client.get_model_version(promotion_log.name, "2").tags[BODY]
    promotion_log.client.set_model_version_tag(promotion_log.name, "2", BODY, body.replace("challenger", "champion"))
    done = coldstart("history", "--recipe", str(recipe_file))
    promotion_log.client.set_model_version_tag(promotion_log.name, "2", BODY, body)
    assert done.returncode == 1
    assert "event 2 of verbs-promotions was changed after it was written" in " ".join(done.stdout.split())
    assert coldstart("history", "--recipe", str(recipe_file)).returncode == 0


def test_tables_show_metrics_gate_results_and_ages(coldstart: Command, recipe_file: Path) -> None:
    recipe = ("--recipe", str(recipe_file))
    listed = coldstart("models", *recipe).stdout
    assert "verbs-scorer" in listed
    assert "0.6000" in listed
    assert "dataset dddddddd" in " ".join(listed.split())
    refused = coldstart("promote", "scorer", "2", "--dry-run", *recipe, "--set", "registry.allowed_licenses=[mit]")
    assert refused.returncode == 1
    assert "has apache-2.0" in " ".join(refused.stdout.split())
    assert "would not move" in refused.stdout
    assert "registered" in coldstart("lineage", "ranker/1", *recipe).stdout
    assert "none was changed" in coldstart("history", *recipe).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["promote", "scorer", "9"], "has no version 9"),
        (["promote", "ranker", "1"], "moves with the release"),
        (["promote", "scorer", "1", "--to", "chmapion"], "allowed: champion, challenger"),
        (["rollback", "scorer", "--to", "9"], "was never champion"),
        (["stop-challenger"], "no challenger to stop"),
        (["lineage", "scorer"], "scorer@champion"),
        (["lineage", "banana@champion"], "allowed: ranker, encoder, quantizer, scorer"),
    ],
)
def test_mistakes_name_the_fix(coldstart: Command, recipe_file: Path, words: list[str], expected: str) -> None:
    done = coldstart(*words, "--recipe", str(recipe_file))
    assert done.returncode == 2
    assert expected in done.stderr
