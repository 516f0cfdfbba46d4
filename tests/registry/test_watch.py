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
    return promotions(champion.registry, "champion", resolve(champion.registry), every=EVERY, warn=warnings.append)


def test_each_promotion_and_rollback_is_seen_once(champion, seen, warnings):
    promote(champion.registry, "adaptor", champion.challenge(0.7), QUALITY)
    assert next(seen).name.endswith("-adaptor/2")
    rollback(champion.registry, "adaptor", why="try")
    assert next(seen).name.endswith("-adaptor/1")
    promote(champion.registry, "adaptor", champion.challenge(0.8, "three"), QUALITY)
    release = next(seen)
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
    assert next(seen).versions["adaptor"] == version
    timer.join()
    assert len(warnings) == 1
    assert "adaptor/1 is served until it does" in warnings[0]
