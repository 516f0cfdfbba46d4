import threading

import pytest
from mlflow.tracking import MlflowClient

from coldstart.registry import promote, resolve, rollback
from coldstart.registry.ledger import Ledger
from coldstart.registry.watch import promotions
from tests.registry.conftest import QUALITY
from tests.registry.servers import free_port

EVERY = 0.05  # s


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def seen(champion, warnings):
    served = {"champion": resolve(champion.registry), "challenger": None}
    return promotions(champion.registry, served, every=EVERY, warn=warnings.append)


def test_each_promotion_and_rollback_is_seen_once(champion, seen, warnings):
    promote(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    assert next(seen)["champion"].name.endswith("-adaptor/2")
    rollback(champion.registry, "adaptor", why="try")
    assert next(seen)["champion"].name.endswith("-adaptor/1")
    promote(champion.registry, "adaptor", champion.challenge(0.8, "three"), QUALITY)
    release = next(seen)["champion"]
    assert release.versions == {"adaptor": 3, "ranker": 1, "encoder": 1}
    assert release.alias == "champion"
    assert not warnings


def test_an_outage_is_told_once_and_what_was_promoted_meanwhile_is_seen_after_it(champion, seen, warnings, monkeypatch):
    registry, version = champion.registry, champion.challenge(0.7)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    gone = MlflowClient(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")

    def come_back() -> None:
        monkeypatch.undo()
        promote(registry, "adaptor", version, QUALITY)

    monkeypatch.setattr(registry, "client", gone)
    monkeypatch.setattr(registry, "ledger", Ledger(gone, registry.project))
    timer = threading.Timer(10 * EVERY, come_back)
    timer.start()
    assert next(seen)["champion"].versions["adaptor"] == version
    timer.join()
    assert len(warnings) == 1
    assert "adaptor/1 is served until it does" in warnings[0]


def test_a_challenger_is_seen_to_come_to_be_replaced_and_to_be_promoted(champion, seen, warnings):
    first = champion.challenge(0.7)
    promote(champion.registry, "adaptor", first, QUALITY, alias="challenger")
    found = next(seen)
    assert found["champion"].versions["adaptor"] == 1
    assert found["challenger"].versions["adaptor"] == first
    second = champion.challenge(0.8, "three")
    promote(champion.registry, "adaptor", second, QUALITY, alias="challenger")
    assert next(seen)["challenger"].versions["adaptor"] == second
    promote(champion.registry, "adaptor", second, QUALITY)
    found = next(seen)
    assert [found[alias].versions["adaptor"] for alias in ("champion", "challenger")] == [second, second]
    assert not warnings
