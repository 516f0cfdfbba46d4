"""The verbs about registered models, on a real registry with real tiny models."""

import json
from pathlib import Path

import pytest

from coldstart.config import dump_recipe
from coldstart.registry import Registry
from coldstart.registry.ledger import BODY
from tests.cli.conftest import Command
from tests.serving.tiny import register_run, tiny_recipe, write_run


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adaptor versions of one project: the run registered twice, from different seeds."""
    runs = tmp_path_factory.mktemp("runs")
    recipe = tiny_recipe(runs, "verbs")
    for seed in (1, 2):
        seeded = recipe.model_copy(update={"seed": seed})
        write_run(seeded)
        register_run(seeded, Registry(recipe.tracking_uri, recipe.project))
    file = runs / "verbs.yaml"
    file.write_text(dump_recipe(recipe))
    return file


def test_a_promotion_as_a_user_does_it(coldstart: Command, recipe_file: Path) -> None:
    def verb(*words: str) -> object:
        done = coldstart(*words, "--recipe", str(recipe_file), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    would = verb("promote", "adaptor", "1", "--dry-run")
    assert [gate["label"] for gate in would["gates"]] == [
        "whole release",
        "schema",
        "cold quality",
        "warm quality",
        "likelihood",
        "cost of a ranking",
        "served as measured",
    ]
    assert verb("history")["records"] == []
    assert verb("promote", "adaptor", "1", "--why", "first")["action"] == "promoted"
    assert verb("promote", "adaptor", "2", "--to", "challenger")["versions"]["ranker"] == 2
    assert verb("promote", "adaptor", "2")["previous"] == 1
    assert [row["aliases"] for row in verb("models") if row["kind"] == "adaptor"] == [["challenger", "champion"], []]
    chain = verb("lineage", "adaptor@champion")
    assert [(link["kind"], link["version"]) for link in chain] == [
        ("adaptor", 2),
        ("proxies", None),
        ("encoder", 2),
        ("ranker", 2),
        ("dataset", None),
    ]
    assert chain[-1]["fingerprint"] == "d" * 64
    assert verb("rollback", "adaptor", "--why", "complaints")["version"] == 1
    assert verb("gc", "--keep", "1") == {"deleted": {"ranker": [], "encoder": [], "adaptor": []}, "dry_run": False}
    assert verb("withdraw", "--why", "slow")["previous"] == 2
    told = verb("history")
    assert [record["why"] for record in told["records"]] == ["first", "", "", "complaints", "slow"]
    assert [(one["alias"], one["version"], one["state"]) for one in told["standing"]] == [
        ("champion", 1, "as recorded"),
        ("challenger", None, "nothing stands"),
    ]


def test_history_tells_a_changed_record(coldstart: Command, recipe_file: Path) -> None:
    ledger = Registry(f"sqlite:///{recipe_file.parent / 'mlflow.db'}", "verbs").ledger
    body = ledger.client.get_model_version(ledger.name, "2").tags[BODY]
    ledger.client.set_model_version_tag(ledger.name, "2", BODY, body.replace("challenger", "champion"))
    done = coldstart("history", "--recipe", str(recipe_file))
    ledger.client.set_model_version_tag(ledger.name, "2", BODY, body)
    assert done.returncode == 1
    assert "record 2 of verbs-promotions was changed after it was written" in " ".join(done.stdout.split())
    assert coldstart("history", "--recipe", str(recipe_file)).returncode == 0


def test_people_see_figures_verdicts_and_ages(coldstart: Command, recipe_file: Path) -> None:
    asked = ("--recipe", str(recipe_file))
    listed = coldstart("models", *asked).stdout
    assert "verbs-adaptor" in listed
    assert "0.6000" in listed
    assert "dataset dddddddd" in " ".join(listed.split())
    refused = coldstart("promote", "adaptor", "2", "--dry-run", *asked, "--set", "registry.licences=[mit]")
    assert refused.returncode == 1
    assert "has apache-2.0" in " ".join(refused.stdout.split())
    assert "would not move" in refused.stdout
    assert "registered" in coldstart("lineage", "ranker/1", *asked).stdout
    assert "none changed" in coldstart("history", *asked).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["promote", "adaptor", "9"], "has no version 9"),
        (["promote", "ranker", "1"], "moves with the release"),
        (["promote", "adaptor", "1", "--to", "chmapion"], "allowed: champion, challenger"),
        (["rollback", "adaptor", "--to", "9"], "was never champion"),
        (["withdraw"], "no challenger to withdraw"),
        (["lineage", "adaptor"], "adaptor@champion"),
        (["lineage", "banana@champion"], "allowed: ranker, encoder, adaptor"),
    ],
)
def test_mistakes_name_the_fix(coldstart: Command, recipe_file: Path, words: list[str], expected: str) -> None:
    done = coldstart(*words, "--recipe", str(recipe_file))
    assert done.returncode == 2
    assert expected in done.stderr
