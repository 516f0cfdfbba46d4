"""Serving with features: the score of a request equals the offline score of the same row."""

import asyncio
import re

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from coldstart.config.recipe import Data, Serving
from coldstart.data.batches import UserWindows
from coldstart.data.features import Categorical, EncodedFeatures, FeatureSchema, Numeric, TargetFeatures
from coldstart.data.sequences import Sequences
from coldstart.methods.idproxy.scorers import FrozenScorer
from coldstart.rankers import load_ranker, save_ranker
from coldstart.rankers.ranker_classes import RANKERS
from coldstart.serving.api.app import make_app
from coldstart.serving.api.schemas import ReleaseResponse
from coldstart.serving.core.scoring import score
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from tests.serving.tiny import HISTORY, IDS, ITEMS, TRAINED, fill_store, proxy_rows, tiny_recipe

SPACE = "a" * 64
BRANDS, COUNTRIES, DEVICES = ("a", "b"), ("7", "8"), ("desk", "phone")
SCHEMA = FeatureSchema(
    categorical=(
        Categorical(owner="item", name="brand", values=BRANDS),
        Categorical(owner="user", name="country", values=COUNTRIES),
        Categorical(owner="context", name="device", values=DEVICES),
    ),
    numeric=(
        Numeric(owner="item", name="price", mean=10, scale=4),
        Numeric(owner="context", name="hour", mean=12, scale=6),
    ),
)
COUNTRY = [7, 8, None]
"""Features of the three users."""


def standard(values, feature):
    return np.nan_to_num((np.array(values, float) - feature.mean) / feature.scale)[:, None].astype(np.float32)


def raw(count):
    rng = np.random.default_rng(1)
    return [DEVICES[n] if n < 2 else None for n in rng.integers(0, 3, count)], rng.integers(0, 24, count).tolist()


@pytest.fixture
def sequences() -> Sequences:
    rng = np.random.default_rng(0)
    users, events = len(COUNTRY), 12
    total = users * events
    device, hour = raw(total)
    brand, price = rng.integers(0, 3, (ITEMS + 1, 1)), rng.integers(1, 30, ITEMS + 1)
    price[0] = brand[0] = 0
    features = TargetFeatures(
        SCHEMA,
        item=EncodedFeatures(brand, standard(price, SCHEMA.numeric[0])),
        user=EncodedFeatures(np.array([[1], [2], [0]]), np.zeros((users, 0), np.float32)),
        context=EncodedFeatures(
            np.array([[0 if one is None else 1 + DEVICES.index(one)] for one in device]),
            standard(hour, SCHEMA.numeric[1]),
        ),
    )
    return Sequences(
        np.arange(users + 1) * events,
        rng.integers(1, TRAINED + 1, total).astype(np.int32),
        rng.integers(0, 2, total).astype(np.int8),
        np.tile(np.sort(rng.integers(1000, 1010, events)), users),
        np.zeros(total, np.int8),
        [str(user) for user in range(users)],
        features=features,
    )


class Model:
    """A fake deployment handle; `rank` scores with a real scorer."""

    def __init__(self, answer):
        self.answer = answer
        self.encode = self.adapt = self.rank = self

    async def remote(self, argument):
        return self.answer(await argument if asyncio.iscoroutine(argument) else argument)


@pytest.fixture(params=sorted(RANKERS))
def client(request, tmp_path, sequences) -> TestClient:
    torch.manual_seed(0)
    settings = tiny_recipe(tmp_path, "features").ranker.model_copy(update={"kind": request.param})
    ranker = RANKERS[request.param](ITEMS + 1, settings, SCHEMA)
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    ranker.trained[1 : TRAINED + 1] = True
    save_ranker(ranker, tmp_path, IDS, sequences.features.item)
    loaded = load_ranker(tmp_path)
    scorer = FrozenScorer(loaded, loaded.trained.float()).eval()
    proxies = torch.randn(ITEMS + 1, 8, generator=torch.Generator().manual_seed(3)).numpy()
    fill_store(tmp_path, SPACE, proxies)
    models = (
        Model(lambda content: (content, 1)),
        Model(lambda encoded: (proxy_rows(np.full((1, 8), 0.5, np.float32))[0], 1)),
        Model(lambda queries: score(scorer, queries)),
    )
    release = ReleaseResponse(release="r/1", project="r", alias=None, versions={}, fingerprints={"scorer": SPACE})
    gateway = Gateway(
        [ReleaseSpec(release, "idproxy", {"ranker": tmp_path}, *models)],
        None,
        Serving(max_candidates=40, max_request_bytes=200_000),
        Data(),
        tmp_path,
    )
    client = TestClient(make_app(gateway))
    client.ranker = loaded
    return client


def ask(client, candidates, **more):
    answer = client.post("/v1/rank", json={"candidates": candidates, "now": 2000} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["scores"]


def test_served_scores_equal_offline_scores_of_rows_with_features(client, sequences):
    offline = np.zeros(len(sequences.label))
    for batch in UserWindows(sequences, history=HISTORY, splits=[0], targets=5).iter_eval(windows_per_step=4):
        with torch.inference_mode():
            probability = torch.sigmoid(client.ranker(batch, client.ranker.id_slots(batch.target_idx)))
        kept = batch.weight > 0
        offline[batch.event_index[kept].numpy()] = probability[kept].numpy()
    device, hour = raw(len(offline))
    for user, country in enumerate(COUNTRY):
        own = range(sequences.offsets[user], sequences.offsets[user + 1])
        history = [
            {
                "item_id": IDS[sequences.item_idx[at] - 1],
                "label": int(sequences.label[at]),
                "timestamp": int(sequences.timestamp[at]),
            }
            for at in own
        ]
        for at in own:
            found = ask(
                client,
                [{"item_id": IDS[sequences.item_idx[at] - 1]}],
                history=history,
                now=int(sequences.timestamp[at]),
                user_features={} if country is None else {"country": country},
                context={"device": device[at], "hour": hour[at]},
            )
            assert found[0] == pytest.approx(offline[at], abs=1e-5)


def test_an_item_is_ranked_with_its_published_features(client):
    content = {"title": "new", "features": {"brand": "b", "price": 3}}
    client.post("/v1/items", json={"item_id": "new"} | content).raise_for_status()
    client.post("/v1/items", json={"item_id": "bare", "title": "new"}).raise_for_status()
    published, bare, given, nothing = ask(client, [{"item_id": "new"}, {"item_id": "bare"}, content, {"title": "new"}])
    assert published == pytest.approx(given, abs=1e-6)
    assert bare == pytest.approx(nothing, abs=1e-6)
    assert abs(published - bare) > 1e-4
    # New content without features keeps the old ones; new features replace them.
    client.post("/v1/items", json={"item_id": "new", "title": "newer"}).raise_for_status()
    assert ask(client, [{"item_id": "new"}]) == pytest.approx([published], abs=1e-6)
    client.post("/v1/items", json={"item_id": "new", "title": "newer", "features": {}}).raise_for_status()
    assert ask(client, [{"item_id": "new"}]) == pytest.approx([bare], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            "rank",
            {"user_features": {"contry": "7"}},
            "user_features: 'contry' is not a feature of the user.*allowed: country",
        ),
        ("rank", {"context": {"hour": "noon"}}, "context: the context feature 'hour' must be a number"),
        ("rank", {"context": {"brand": "a"}}, "allowed: device, hour"),
        (
            "rank",
            {"candidates": [{"title": "t", "features": {"x": 1}}]},
            r"candidates.0.features: .*allowed: brand, price",
        ),
        ("rank", {"candidates": [{"item_id": "i", "features": {"brand": "a"}}]}, "published with"),
        (
            "items",
            {"item_id": "i", "title": "t", "features": {"device": "desk"}},
            "features: 'device' is not a feature of the item",
        ),
        ("items", {"item_id": "i", "title": "t", "features": {"brand": ["a"]}}, "features"),
    ],
)
def test_unknown_or_invalid_features_are_refused_by_name(client, path, body, message):
    answer = client.post(f"/v1/{path}", json={"candidates": [{"item_id": "i"}]} | body if path == "rank" else body)
    assert answer.status_code == 422
    assert re.search(message, answer.json()["error"]["message"])
