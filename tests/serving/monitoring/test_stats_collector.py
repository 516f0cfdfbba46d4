"""Statistics of a gateway after requests of every kind."""

import asyncio
import time

import numpy as np
import pytest

from coldstart.data.content import Content
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.publication_log import ItemRow, PublishedItem
from tests.serving.conftest import SPACE
from tests.serving.tiny import IDS, PROXY_COLUMNS, proxy_rows


@pytest.fixture
def stats(client, gateway):
    def sync_and_read() -> dict:
        asyncio.run(gateway.router.sync())
        return client.get("/v1/stats").raise_for_status().json()

    return sync_and_read


def test_a_new_gateway_has_empty_statistics(stats):
    found = stats()
    assert found["batches"]["encoder"] == {"per_s": 0, "mean": None, "sizes": {}}
    assert found["queues"]["scorer"] == {"now": 0, "peak": 0}
    assert found["newest_proxy_age_s"] is None
    assert found["champion"]["lookups"]["per_s"] == 0


def test_lookups_are_counted_by_result(client, stats):
    candidates = [*({"item_id": item} for item in (IDS[0], IDS[1], IDS[-1], "nobody")), {"title": "by content"}]
    client.post("/v1/rank", json={"candidates": candidates}).raise_for_status()
    lookups = stats()["champion"]["lookups"]
    assert lookups["shares"] == {"id": 0.5, "proxy": 0.25, "oov": 0.25}
    assert lookups["per_s"] == pytest.approx(4 / 60)


def test_stages_batches_and_queues_of_all_models(client, gateway, stats):
    contents = [{"title": f"film {n}"} for n in range(3)]
    gateway.champion.models.encoder.answer = lambda content: (content, 3 if content.title == "film 0" else 0)
    client.post("/v1/rank", json={"candidates": contents}).raise_for_status()
    found = stats()
    assert {"parse", "choose", "encode", "adapt", "rank"} <= found["stages"].keys()
    assert found["stages"]["adapt"]["per_s"] == pytest.approx(3 / 60)
    assert found["batches"]["encoder"] == {"per_s": pytest.approx(1 / 60), "mean": 3, "sizes": {"3-4": 1}}
    assert found["batches"]["scorer"]["sizes"] == {"1": 1}
    assert found["queues"]["encoder"] == {"now": 0, "peak": 3}
    assert found["queues"]["scorer"] == {"now": 0, "peak": 1}


def test_a_failed_call_leaves_the_queue(client, gateway, stats):
    gateway.champion.models.encoder.behavior = "slow"
    assert client.post("/v1/rank", json={"candidates": [{"title": "film"}]}).status_code == 504
    assert stats()["queues"]["encoder"] == {"now": 0, "peak": 1}


def test_items_of_other_gateways_are_loaded_without_any_request(gateway, tmp_path, stats):
    other = ItemStore(tmp_path, SPACE, PROXY_COLUMNS)
    item = PublishedItem("new", Content("t", None, None), None, time.time(), "api", "digest")
    other.publication_log.publish([(item, ItemRow(proxy_rows(np.ones((1, 8)))[0]))])
    other.close()
    found = stats()
    assert found["proxy_propagation"]["per_s"] == pytest.approx(1 / 60)
    assert 0 <= found["newest_proxy_age_s"] < 60
    assert gateway.champion.store.row("new") is not None


def test_items_stored_before_the_start_have_no_delay(tmp_path):
    store = ItemStore(tmp_path, SPACE, PROXY_COLUMNS)
    item = PublishedItem("new", Content("t", None, None), None, time.time(), "api", "digest")
    store.publication_log.publish([(item, ItemRow(proxy_rows(np.ones((1, 8)))[0]))])
    late = ItemStore(tmp_path, SPACE, PROXY_COLUMNS)
    assert late.pop_delays() == []
    assert late.newest_at == pytest.approx(time.time(), abs=60)
