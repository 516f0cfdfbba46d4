"""Aliases and promotion log after a crash or a manual change."""

import pytest

from coldstart.config import UserError
from coldstart.registry import (
    apply_promotion,
    plan_promotion,
    promote,
    read_alias_state,
    reconcile_alias,
    resolve,
    rollback,
)
from coldstart.registry.alias_state import AliasStatus
from tests.registry.conftest import QUALITY, alias_versions


def set_alias_manually(run, kind: str, version: int, alias: str = "champion") -> None:
    run.registry.client.set_registered_model_alias(run.registry.model_name(kind), alias, str(version))


def actions(run) -> list[str]:
    return [logged.event.action for logged in run.registry.promotion_log.read_verified().events]


@pytest.mark.parametrize("moves_before_crash", [0, 1, 2])
def test_next_reader_applies_a_half_applied_promotion(champion, monkeypatch, moves_before_crash):
    champion.make("encoder", "two")
    champion.make("item_table", "two")
    champion.make("scorer", "two")
    version = champion.register_all(0.7).version
    plan = plan_promotion(champion.registry, version, QUALITY)
    client, moves = champion.registry.client, []
    move = client.set_registered_model_alias

    def die(name: str, alias: str, number: str) -> None:
        if len(moves) == moves_before_crash:
            raise ConnectionError("the machine went away")
        moves.append(name)
        move(name, alias, number)

    monkeypatch.setattr(client, "set_registered_model_alias", die)
    if moves_before_crash < 2:  # Encoder and scorer move; the ranker stays.
        with pytest.raises(ConnectionError):
            apply_promotion(champion.registry, plan)
    else:
        monkeypatch.setattr(champion.registry.promotion_log, "mark_applied", lambda logged: None)
        apply_promotion(champion.registry, plan)
    monkeypatch.undo()
    assert read_alias_state(champion.registry, "champion").status is AliasStatus.PENDING
    assert resolve(champion.registry).versions == {"ranker": 1, "encoder": 2, "scorer": 2}
    assert alias_versions(champion) == {"ranker": 1, "encoder": 2, "scorer": 2}
    assert read_alias_state(champion.registry, "champion").status is AliasStatus.IN_SYNC


def test_manual_change_to_a_complete_release_is_accepted_and_logged(champion):
    version = champion.register_scorer(0.1)
    set_alias_manually(champion, "scorer", version)
    state = read_alias_state(champion.registry, "champion")
    assert (state.status, state.version, state.problem) == (AliasStatus.MANUAL, version, None)
    assert "changed manually to version 2, which is accepted" in state.describe()
    assert actions(champion) == ["promoted"]
    assert resolve(champion.registry).versions["scorer"] == version
    assert actions(champion) == ["promoted", "manual change accepted"]
    assert rollback(champion.registry).event.version == 1


def test_manual_change_to_a_damaged_release_is_reverted_and_logged(champion):
    version = champion.register_scorer(0.9)
    (champion.registry.download_artifact("scorer", version).path / "settings.json").write_text("{}")
    set_alias_manually(champion, "scorer", version)
    state = read_alias_state(champion.registry, "champion")
    assert state.version == 1
    assert "is not accepted" in state.describe()
    assert "differs from its manifest" in state.describe()
    assert resolve(champion.registry).versions["scorer"] == 1
    assert alias_versions(champion)["scorer"] == 1
    assert actions(champion) == ["promoted", "manual change reverted"]


def test_manual_change_of_the_ranker_is_reverted(champion):
    champion.make("ranker", "two")
    set_alias_manually(champion, "ranker", champion.register("ranker").version)
    reconcile_alias(champion.registry, "champion")
    assert alias_versions(champion) == {"ranker": 1, "encoder": 1, "scorer": 1}


def test_removed_alias_is_restored(champion):
    champion.registry.client.delete_registered_model_alias(champion.registry.model_name("scorer"), "champion")
    reconcile_alias(champion.registry, "champion")
    assert alias_versions(champion)["scorer"] == 1


def test_manually_set_first_alias(registered):
    set_alias_manually(registered, "scorer", 1)
    assert resolve(registered.registry).versions == {"ranker": 1, "encoder": 1, "scorer": 1}
    assert alias_versions(registered) == {"ranker": 1, "encoder": 1, "scorer": 1}
    (registered.registry.download_artifact("scorer", 1).path / "settings.json").write_text("{}")
    set_alias_manually(registered, "scorer", 1, "challenger")
    with pytest.raises(UserError, match="has no challenger"):
        resolve(registered.registry, "challenger")
    assert alias_versions(registered, "challenger") == {"ranker": None, "encoder": None, "scorer": None}


def test_champion_deleted_in_mlflow_is_reported_and_can_be_rolled_back(champion):
    promote(champion.registry, champion.register_scorer(0.7), QUALITY)
    champion.registry.client.delete_model_version(champion.registry.model_name("scorer"), "2")
    with pytest.raises(UserError, match=r"has no version 2.*coldstart rollback scorer"):
        resolve(champion.registry)
    assert rollback(champion.registry).event.version == 1
    assert resolve(champion.registry).versions["scorer"] == 1
