"""What a gateway tells of itself after requests of every kind."""

import asyncio
import time

import numpy as np
import pytest

from coldstart.data.content import Content
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.publications import Item, Proxy
from tests.serving.conftest import SPACE
from tests.serving.tiny import IDS


@pytest.fixture
def watched(client, gateway):
    def look() -> dict:
        asyncio.run(gateway.traffic.look())
        return client.get("/v1/watch").raise_for_status().json()

    return look


def test_nothing_was_asked_yet(watched):
    told = watched()
    assert told["batches"]["encoder"] == {"per_s": 0, "mean": None, "sizes": {}}
    assert told["queues"]["ranker"] == {"now": 0, "peak": 0}
    assert told["newest_item_s"] is None
    assert told["champion"]["lookups"]["per_s"] == 0


def test_lookups_tell_known_items_proxies_and_strangers_apart(client, watched):
    candidates = [*({"item_id": item} for item in (IDS[0], IDS[1], IDS[-1], "nobody")), {"title": "by content"}]
    client.post("/v1/rank", json={"candidates": candidates}).raise_for_status()
    lookups = watched()["champion"]["lookups"]
    assert lookups["shares"] == {"known": 0.5, "proxy": 0.25, "neither": 0.25}
    assert lookups["per_s"] == pytest.approx(4 / 60)


def test_stages_batches_and_queues_of_every_model(client, gateway, watched):
    contents = [{"title": f"film {n}"} for n in range(3)]
    gateway.champion.models.encoder.answer = lambda content: (content, 3 if content.title == "film 0" else 0)
    client.post("/v1/rank", json={"candidates": contents}).raise_for_status()
    told = watched()
    assert {"parse", "choose", "encode", "adapt", "rank"} <= told["stages"].keys()
    assert told["stages"]["adapt"]["per_s"] == pytest.approx(3 / 60)
    assert told["batches"]["encoder"] == {"per_s": pytest.approx(1 / 60), "mean": 3, "sizes": {"3-4": 1}}
    assert told["batches"]["ranker"]["sizes"] == {"1": 1}
    assert told["queues"]["encoder"] == {"now": 0, "peak": 3}
    assert told["queues"]["ranker"] == {"now": 0, "peak": 1}


def test_a_model_that_fails_leaves_nothing_in_its_queue(client, gateway, watched):
    gateway.champion.models.encoder.mood = "slow"
    assert client.post("/v1/rank", json={"candidates": [{"title": "film"}]}).status_code == 504
    assert watched()["queues"]["encoder"] == {"now": 0, "peak": 1}


def test_items_of_other_gateways_are_taken_in_without_any_request(gateway, tmp_path, watched):
    other = ProxyStore(tmp_path, SPACE)
    item = Item("new", Content("t", None, None), None, time.time(), "api", "digest")
    other.publications.publish([(item, Proxy(np.ones(8, np.float32)))])
    other.close()
    told = watched()
    assert told["taken_in"]["per_s"] == pytest.approx(1 / 60)
    assert 0 <= told["newest_item_s"] < 60
    assert gateway.champion.store.proxy("new") is not None


def test_what_was_there_at_the_start_did_not_wait_for_the_gateway(tmp_path):
    store = ProxyStore(tmp_path, SPACE)
    item = Item("new", Content("t", None, None), None, time.time(), "api", "digest")
    store.publications.publish([(item, Proxy(np.ones(8, np.float32)))])
    late = ProxyStore(tmp_path, SPACE)
    assert late.delays() == []
    assert late.newest_at == pytest.approx(time.time(), abs=60)
