from pathlib import Path

import pytest

from coldstart.config import UserError
from coldstart.registry import decide, enact, promote, resolve, rollback
from coldstart.registry.housekeeping import collect
from tests.registry.conftest import QUALITY


def kept(run, kind: str = "adaptor") -> list[int]:
    return [int(entry.version) for entry in run.registry.entries(kind)]


@pytest.fixture
def crowded(champion):
    """Champions 1 and 3, challenger 2, and versions 4 to 6 that nobody promoted."""
    for number, gauc in ((2, 0.61), (3, 0.65), (4, 0.5), (5, 0.5), (6, 0.5)):
        champion.challenge(gauc, str(number))
    promote(champion.registry, "adaptor", 3, QUALITY)
    promote(champion.registry, "adaptor", 2, QUALITY, alias="challenger")
    return champion


def test_what_is_needed_stays_and_the_rest_goes_with_its_files(crowded):
    four = crowded.registry.locate("adaptor", 4).path, crowded.registry.locate_proxies(4).path
    assert collect(crowded.registry, keep=1, window=1, dry_run=True) == {"ranker": [], "encoder": [], "adaptor": [4, 5]}
    assert kept(crowded) == [6, 5, 4, 3, 2, 1]
    assert collect(crowded.registry, keep=1, window=1)["adaptor"] == [4, 5]
    assert kept(crowded) == [6, 3, 2, 1]
    assert not any(Path(path).exists() for path in four)
    assert rollback(crowded.registry, "adaptor").entry.version == 1
    assert collect(crowded.registry, keep=1, window=1)["adaptor"] == [3]


def test_a_release_behind_the_rollback_window_goes(crowded):
    crowded.challenge(0.9, "seven")
    promote(crowded.registry, "adaptor", 7, QUALITY)
    collect(crowded.registry, keep=1, window=1)
    assert kept(crowded) == [7, 3, 2]
    with pytest.raises(UserError, match="deleted by `coldstart gc`"):
        rollback(crowded.registry, "adaptor", to=1)


def test_upstream_of_what_stays_stays(champion):
    champion.make("ranker", "two")
    champion.register("ranker")
    champion.make("ranker", "three")
    champion.register("ranker")
    assert collect(champion.registry, keep=1, window=1)["ranker"] == [2]
    assert resolve(champion.registry).versions == {"ranker": 1, "encoder": 1, "adaptor": 1}


def test_a_promotion_decided_before_the_sweep_does_not_reach_what_was_swept(crowded):
    decision = decide(crowded.registry, "adaptor", 5, QUALITY, alias="challenger")
    collect(crowded.registry, keep=1, window=1)
    with pytest.raises(UserError, match="changed by somebody else"):
        enact(crowded.registry, decision)
    with pytest.raises(UserError, match="deleted by `coldstart gc`"):
        promote(crowded.registry, "adaptor", 5, QUALITY)


def test_an_interrupted_sweep_is_finished_by_the_next(crowded, monkeypatch):
    client = crowded.registry.client
    monkeypatch.setattr(client, "delete_model_version", lambda name, version: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collect(crowded.registry, keep=1, window=1)
    monkeypatch.undo()
    assert kept(crowded) == [6, 5, 4, 3, 2, 1]
    assert collect(crowded.registry, keep=1, window=1)["adaptor"] == [4, 5]
    assert kept(crowded) == [6, 3, 2, 1]
    assert [record.entry.action for record in crowded.registry.ledger.trusted().records].count("collected") == 1
