"""The promotion record under contention and under somebody's hands."""

import json
import multiprocessing
from multiprocessing.synchronize import Barrier

import pytest

from coldstart.config import UserError
from coldstart.registry import Registry, decide, enact, promote, resolve
from coldstart.registry.ledger import BODY, DIGEST, PROMOTED, Entry, OvertakenError, _sha256
from tests.registry.conftest import QUALITY, standing

WRITERS = 20


def entry(version: int) -> Entry:
    return Entry(PROMOTED, "champion", None, version, {"adaptor": version}, why=f"version {version}")


@pytest.fixture
def ledger(tracking_uri, request):
    return Registry(tracking_uri, request.node.name.replace("_", "-")).ledger


def test_records_keep_what_they_were_given(ledger):
    first = ledger.append(entry(1), ledger.read())
    second = ledger.append(entry(2), ledger.read())
    chain = ledger.trusted()
    assert chain.records == (first, second)
    assert [record.entry for record in chain.records] == [first.entry, second.entry]
    assert chain.head("champion") == second
    assert chain.head("challenger") is None


def _promote(uri: str, project: str, version: int, barrier: Barrier, outcomes: "multiprocessing.Queue[str]") -> None:
    registry = Registry(uri, project)
    decision = decide(registry, "adaptor", version, QUALITY)
    barrier.wait()
    try:
        enact(registry, decision, why=f"writer {version}")
        outcomes.put("won")
    except OvertakenError:
        outcomes.put("overtaken")
    except Exception as error:
        outcomes.put(repr(error))


def test_twenty_processes_promote_at_once_and_one_wins(champion, tracking_uri):
    versions = [champion.challenge(0.7, "two"), champion.challenge(0.8, "three")]
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload([__name__])
    barrier, outcomes = start.Barrier(WRITERS), start.Queue()
    writers = [
        start.Process(target=_promote, args=(tracking_uri, champion.registry.project, version, barrier, outcomes))
        for version in versions * (WRITERS // 2)
    ]
    for writer in writers:
        writer.start()
    found = [outcomes.get(timeout=240) for _ in writers]
    for writer in writers:
        writer.join()
    assert sorted(found) == ["overtaken"] * (WRITERS - 1) + ["won"]
    chain = champion.registry.ledger.trusted()
    assert len(chain.records) == 1 + WRITERS
    assert [record.number for record in chain.in_force("champion")] == [1, 2]
    winner = chain.head("champion")
    assert winner.settled
    assert standing(champion) == winner.entry.versions


def test_a_changed_record_is_noticed(champion):
    promote(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    ledger = champion.registry.ledger
    body = json.loads(ledger.client.get_model_version(ledger.name, "1").tags[BODY])
    forged = json.dumps(body | {"who": "somebody else"}, sort_keys=True)
    ledger.client.set_model_version_tag(ledger.name, "1", BODY, forged)
    assert "record 1" in ledger.read().problem
    ledger.client.set_model_version_tag(ledger.name, "1", DIGEST, _sha256(forged))
    assert "not those that record 2 was built on" in ledger.read().problem
    with pytest.raises(UserError, match="nothing is promoted on it"):
        promote(champion.registry, "adaptor", 1, QUALITY)
    with pytest.raises(UserError, match="nothing is promoted on it"):
        resolve(champion.registry)


def test_a_changed_overtaken_record_is_noticed_too(champion):
    ledger, old = champion.registry.ledger, champion.registry.ledger.read()
    ledger.append(entry(1), old)
    with pytest.raises(OvertakenError):
        ledger.append(entry(1), old)
    ledger.append(entry(1), ledger.read())
    body = ledger.client.get_model_version(ledger.name, "3").tags[BODY].replace("version 1", "version 9")
    ledger.client.set_model_version_tag(ledger.name, "3", BODY, body)
    ledger.client.set_model_version_tag(ledger.name, "3", DIGEST, _sha256(body))
    assert "record 4 was built on" in ledger.read().problem


def test_a_removed_record_is_noticed(champion):
    promote(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    ledger = champion.registry.ledger
    ledger.client.delete_model_version(ledger.name, "1")
    assert "record 1" in ledger.read().problem
    assert "was removed" in ledger.read().problem
