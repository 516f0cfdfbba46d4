"""The promotion log under contention and after manipulation."""

import json
import multiprocessing
from multiprocessing.synchronize import Barrier

import pytest

from coldstart.config import UserError
from coldstart.registry import Registry, apply_promotion, plan_promotion, promote, resolve
from coldstart.registry.promotion_log import BODY, DIGEST, PROMOTED, ConflictError, Event, _sha256
from tests.ranks import preload
from tests.registry.conftest import QUALITY, alias_versions

STORES = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
preload(__name__, *STORES)
WRITERS = 20


def event(version: int) -> Event:
    return Event(PROMOTED, "champion", None, version, {"scorer": version}, reason=f"version {version}")


@pytest.fixture
def promotion_log(tracking_uri, request):
    return Registry(tracking_uri, request.node.name.replace("_", "-")).promotion_log


def test_logged_events_are_read_back(promotion_log):
    first = promotion_log.append(event(1), promotion_log.read())
    second = promotion_log.append(event(2), promotion_log.read())
    snapshot = promotion_log.read_verified()
    assert snapshot.events == (first, second)
    assert [logged.event for logged in snapshot.events] == [first.event, second.event]
    assert snapshot.head("champion") == second
    assert snapshot.head("challenger") is None


def _promote(uri: str, project: str, version: int, barrier: Barrier, outcomes: "multiprocessing.Queue[str]") -> None:
    registry = Registry(uri, project)
    plan = plan_promotion(registry, version, QUALITY)
    barrier.wait()
    try:
        apply_promotion(registry, plan, reason=f"writer {version}")
        outcomes.put("won")
    except ConflictError:
        outcomes.put("superseded")
    except Exception as error:
        outcomes.put(repr(error))


def test_one_of_twenty_concurrent_promotions_wins(champion):
    registry = champion.registry
    versions = [champion.register_scorer(0.7, "two"), champion.register_scorer(0.8, "three")]
    start = multiprocessing.get_context("forkserver")
    barrier, outcomes = start.Barrier(WRITERS), start.Queue()
    writers = [
        start.Process(target=_promote, args=(registry.tracking_uri, registry.project, version, barrier, outcomes))
        for version in versions * (WRITERS // 2)
    ]
    for writer in writers:
        writer.start()
    found = [outcomes.get(timeout=240) for _ in writers]
    for writer in writers:
        writer.join()
    assert sorted(found) == ["superseded"] * (WRITERS - 1) + ["won"]
    snapshot = champion.registry.promotion_log.read_verified()
    assert len(snapshot.events) == 1 + WRITERS
    assert [logged.number for logged in snapshot.effective("champion")] == [1, 2]
    winner = snapshot.head("champion")
    assert winner.applied
    assert alias_versions(champion) == winner.event.versions


def test_changed_event_is_detected(champion):
    promote(champion.registry, champion.register_scorer(0.7), QUALITY)
    promotion_log = champion.registry.promotion_log
    body = json.loads(promotion_log.client.get_model_version(promotion_log.name, "1").tags[BODY])
    forged = json.dumps(body | {"actor": "somebody else"}, sort_keys=True)
    promotion_log.client.set_model_version_tag(promotion_log.name, "1", BODY, forged)
    assert "event 1" in promotion_log.read().problem
    promotion_log.client.set_model_version_tag(promotion_log.name, "1", DIGEST, _sha256(forged))
    assert "differ from those that event 2 builds on" in promotion_log.read().problem
    with pytest.raises(UserError, match="no promotion is possible"):
        promote(champion.registry, 1, QUALITY)
    with pytest.raises(UserError, match="no promotion is possible"):
        resolve(champion.registry)


def test_changed_superseded_event_is_detected(champion):
    promotion_log, old = champion.registry.promotion_log, champion.registry.promotion_log.read()
    promotion_log.append(event(1), old)
    with pytest.raises(ConflictError):
        promotion_log.append(event(1), old)
    promotion_log.append(event(1), promotion_log.read())
    body = promotion_log.client.get_model_version(promotion_log.name, "3").tags[BODY].replace("version 1", "version 9")
    promotion_log.client.set_model_version_tag(promotion_log.name, "3", BODY, body)
    promotion_log.client.set_model_version_tag(promotion_log.name, "3", DIGEST, _sha256(body))
    assert "event 4 builds on" in promotion_log.read().problem


def test_removed_event_is_detected(champion):
    promote(champion.registry, champion.register_scorer(0.7), QUALITY)
    promotion_log = champion.registry.promotion_log
    promotion_log.client.delete_model_version(promotion_log.name, "1")
    assert "event 1" in promotion_log.read().problem
    assert "was removed" in promotion_log.read().problem
