"""Aliases and record: what a crash or a hand leaves behind."""

import pytest

from coldstart.config import UserError
from coldstart.registry import decide, enact, look, promote, resolve, rollback, settle
from coldstart.registry.standing import State
from tests.registry.conftest import QUALITY, standing


def by_hand(run, kind: str, version: int, alias: str = "champion") -> None:
    run.registry.client.set_registered_model_alias(run.registry.model_name(kind), alias, str(version))


def actions(run) -> list[str]:
    return [record.entry.action for record in run.registry.ledger.trusted().records]


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_the_next_reader_finishes_what_died_half_way(champion, monkeypatch, survived):
    champion.make("encoder", "two")
    champion.make("proxies", "two")
    champion.make("adaptor", "two")
    version = champion.register_all(0.7).version
    decision = decide(champion.registry, "adaptor", version, QUALITY)
    client, moves = champion.registry.client, []
    move = client.set_registered_model_alias

    def die(name: str, alias: str, number: str) -> None:
        if len(moves) == survived:
            raise ConnectionError("the machine went away")
        moves.append(name)
        move(name, alias, number)

    monkeypatch.setattr(client, "set_registered_model_alias", die)
    if survived < 2:  # Encoder and adaptor move; the ranker stays.
        with pytest.raises(ConnectionError):
            enact(champion.registry, decision)
    else:
        monkeypatch.setattr(champion.registry.ledger, "settle", lambda record: None)
        enact(champion.registry, decision)
    monkeypatch.undo()
    assert look(champion.registry, "champion").state is State.UNFINISHED
    assert resolve(champion.registry).versions == {"ranker": 1, "encoder": 2, "adaptor": 2}
    assert standing(champion) == {"ranker": 1, "encoder": 2, "adaptor": 2}
    assert look(champion.registry, "champion").state is State.SETTLED


def test_an_alias_moved_by_hand_to_a_whole_release_is_taken_up_and_recorded(champion):
    version = champion.challenge(0.1)
    by_hand(champion, "adaptor", version)
    seen = look(champion.registry, "champion")
    assert (seen.state, seen.version, seen.trouble) == (State.BY_HAND, version, None)
    assert "moved by hand to version 2, which is taken up" in seen.sentence()
    assert actions(champion) == ["promoted"]
    assert resolve(champion.registry).versions["adaptor"] == version
    assert actions(champion) == ["promoted", "taken up"]
    assert rollback(champion.registry, "adaptor").entry.version == 1


def test_an_alias_moved_by_hand_to_a_damaged_release_is_put_back_and_recorded(champion):
    version = champion.challenge(0.9)
    (champion.registry.locate("adaptor", version).path / "settings.json").write_text("{}")
    by_hand(champion, "adaptor", version)
    seen = look(champion.registry, "champion")
    assert seen.version == 1
    assert "is not taken up" in seen.sentence()
    assert "differs from its manifest" in seen.sentence()
    assert resolve(champion.registry).versions["adaptor"] == 1
    assert standing(champion)["adaptor"] == 1
    assert actions(champion) == ["promoted", "put back"]


def test_a_ranker_moved_by_hand_is_put_back(champion):
    champion.make("ranker", "two")
    by_hand(champion, "ranker", champion.register("ranker").version)
    settle(champion.registry, "champion")
    assert standing(champion) == {"ranker": 1, "encoder": 1, "adaptor": 1}


def test_an_alias_taken_away_is_put_back(champion):
    champion.registry.client.delete_registered_model_alias(champion.registry.model_name("adaptor"), "champion")
    settle(champion.registry, "champion")
    assert standing(champion)["adaptor"] == 1


def test_an_alias_set_by_hand_where_none_stood(run):
    version = run.register_all(0.6).version
    by_hand(run, "adaptor", version)
    assert resolve(run.registry).versions == {"ranker": 1, "encoder": 1, "adaptor": 1}
    assert standing(run) == {"ranker": 1, "encoder": 1, "adaptor": 1}
    (run.registry.locate("adaptor", version).path / "settings.json").write_text("{}")
    by_hand(run, "adaptor", version, "challenger")
    with pytest.raises(UserError, match="has no challenger"):
        resolve(run.registry, "challenger")
    assert standing(run, "challenger") == {"ranker": None, "encoder": None, "adaptor": None}


def test_a_champion_deleted_in_mlflow_is_told_and_can_be_rolled_back(champion):
    promote(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    champion.registry.client.delete_model_version(champion.registry.model_name("adaptor"), "2")
    with pytest.raises(UserError, match=r"has no version 2.*coldstart rollback adaptor"):
        resolve(champion.registry)
    assert rollback(champion.registry, "adaptor").entry.version == 1
    assert resolve(champion.registry).versions["adaptor"] == 1
