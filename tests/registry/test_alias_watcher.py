import threading

import pytest
from mlflow.tracking import MlflowClient

from coldstart.registry import promote, resolve, rollback
from coldstart.registry.alias_watcher import watch_aliases
from coldstart.registry.promotion_log import PromotionLog
from tests.registry.conftest import QUALITY
from tests.registry.servers import free_port

EVERY = 0.05  # s


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def changes(champion, warnings):
    served = {"champion": resolve(champion.registry), "challenger": None}
    return watch_aliases(champion.registry, served, every=EVERY, warn=warnings.append)


def test_each_promotion_and_rollback_is_reported_once(champion, changes, warnings):
    promote(champion.registry, champion.register_scorer(0.7), QUALITY)
    assert next(changes)["champion"].name.endswith("-scorer/2")
    rollback(champion.registry, reason="try")
    assert next(changes)["champion"].name.endswith("-scorer/1")
    promote(champion.registry, champion.register_scorer(0.8, "three"), QUALITY)
    release = next(changes)["champion"]
    assert release.versions == {"scorer": 3, "ranker": 1, "encoder": 1}
    assert release.alias == "champion"
    assert not warnings


def test_outage_is_reported_once_and_later_promotions_are_seen(champion, changes, warnings, monkeypatch):
    registry, version = champion.registry, champion.register_scorer(0.7)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    gone = MlflowClient(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")

    def come_back() -> None:
        monkeypatch.undo()
        promote(registry, version, QUALITY)

    monkeypatch.setattr(registry, "client", gone)
    monkeypatch.setattr(registry, "promotion_log", PromotionLog(gone, registry.project))
    timer = threading.Timer(10 * EVERY, come_back)
    timer.start()
    assert next(changes)["champion"].versions["scorer"] == version
    timer.join()
    assert len(warnings) == 1
    assert "scorer/1 is served until it does" in warnings[0]


def test_challenger_start_replacement_and_promotion_are_seen(champion, changes, warnings):
    first = champion.register_scorer(0.7)
    promote(champion.registry, first, QUALITY, alias="challenger")
    found = next(changes)
    assert found["champion"].versions["scorer"] == 1
    assert found["challenger"].versions["scorer"] == first
    second = champion.register_scorer(0.8, "three")
    promote(champion.registry, second, QUALITY, alias="challenger")
    assert next(changes)["challenger"].versions["scorer"] == second
    promote(champion.registry, second, QUALITY)
    found = next(changes)
    assert [found[alias].versions["scorer"] for alias in ("champion", "challenger")] == [second, second]
    assert not warnings
