"""A release of MIM is served as it is evaluated, in this process: content of target and history, also of new items."""

import base64

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from coldstart.config.recipe import Data, Serving, Store
from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import METHODS
from coldstart.registry import Release
from coldstart.serving.api.app import make_app
from coldstart.serving.api.schemas import ReleaseResponse
from coldstart.serving.core.golden_requests import golden_metrics
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from coldstart.serving.store.store_bootstrap import bootstrap_store
from tests.methods.mim.release import write_release
from tests.serving.local import LocalModels
from tests.serving.tiny import HISTORY, IDS, ITEMS, content


class Handle:
    """A deployment handle that calls a coroutine."""

    def __init__(self, call):
        self.call, self.encode, self.adapt = call, self, self

    async def remote(self, argument):
        return await self.call(argument), 1


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("release"), fusion="dta")


@pytest.fixture
def client(release: Release, tmp_path) -> TestClient:
    bootstrap_store(release, tmp_path / "store", Store())
    models = LocalModels(release)

    async def pass_on(item):
        return item

    response = ReleaseResponse(
        release=release.name, project="mim", alias=None, versions={}, fingerprints=release.fingerprints
    )
    spec = ReleaseSpec(response, release.method, release.paths, Handle(pass_on), Handle(models.row))
    return TestClient(make_app(Gateway([spec], None, Serving(), Data(), tmp_path / "store")))


def test_golden_requests_have_no_gap(release: Release):
    assert golden_metrics(release)["online_offline_gap"] < 1e-5


def test_served_scores_equal_offline_scores(client: TestClient, release: Release):
    scorer, items = METHODS["mim"].load_scorer(release.paths), ItemTable.open(release.items.path)
    rng, worst, spread = np.random.default_rng(11), 0.0, []
    for _ in range(40):
        seen = rng.integers(1, ITEMS + 1, rng.integers(0, 12))
        labels, times = rng.integers(0, 2, len(seen)), rng.integers(1000, 1100, len(seen))
        targets = rng.integers(1, ITEMS + 1, 5)
        batch = rank_request(seen, labels, times, targets, 1080, history=HISTORY)
        with torch.inference_mode():
            offline = torch.sigmoid(scorer(batch, items))[0].numpy()
        history = [
            {"item_id": IDS[index - 1], "label": int(label), "timestamp": int(time)}
            for index, label, time in zip(seen, labels, times, strict=True)
        ]
        body = {"history": history, "candidates": [{"item_id": IDS[index - 1]} for index in targets], "now": 1080}
        scores = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
        worst = max(worst, float(np.abs(np.array(scores) - offline).max()))
        spread.append(np.ptp(offline))
    assert worst < 1e-5
    assert np.mean(spread) > 0.05


def published(client: TestClient, name: str, index: int) -> None:
    item = content(index)
    body = {"item_id": name, "title": item.title, "text": item.text, "image": base64.b64encode(item.image).decode()}
    client.post("/v1/items", json=body).raise_for_status()


def test_a_new_item_is_read_in_the_history_and_scored_by_its_content(client: TestClient):
    body = {
        "history": [{"item_id": "new", "label": 1, "timestamp": 10}],
        "candidates": [{"item_id": IDS[0]}, {"item_id": "newer"}],
        "now": 100,
    }
    before = client.post("/v1/rank", json=body).json()["scores"]
    published(client, "new", 3)
    history_known = client.post("/v1/rank", json=body).json()["scores"]
    published(client, "newer", 4)
    both_known = client.post("/v1/rank", json=body).json()["scores"]
    assert history_known[0] != pytest.approx(before[0], abs=1e-6)
    assert both_known[0] == pytest.approx(history_known[0], abs=1e-6)
    assert both_known[1] != pytest.approx(history_known[1], abs=1e-6)


def test_neighbors_are_items_of_like_content(client: TestClient):
    published(client, "copy", 7)
    (neighbor,) = client.get("/v1/items/copy/neighbors?k=1").raise_for_status().json()["neighbors"]
    assert neighbor["item_id"] == IDS[6]
    assert neighbor["cosine"] == pytest.approx(1, abs=1e-4)
