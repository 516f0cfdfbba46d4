"""The items API, with a fake encoder that encodes the length of the title."""

import asyncio
import base64
import json

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from coldstart.config.recipe import Data, Serving, Store
from coldstart.rankers import DinDcn, save_ranker
from coldstart.serving.api.app import make_app
from coldstart.serving.api.schemas import PublishRequest, ReleaseResponse
from coldstart.serving.core.item_service import _GroupCommit
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from coldstart.serving.store.item_store import ItemStore
from tests.serving.tiny import IDS, ITEMS, PROXY_COLUMNS, TRAINED, fill_store, png_image, proxy_rows, tiny_recipe

SPACE = "a" * 64
ROWS = np.eye(TRAINED, 8, dtype=np.float32)


class Model:
    """A fake deployment handle."""

    def __init__(self, answer):
        self.answer = answer
        self.encode = self.adapt = self.rank = self

    async def remote(self, argument):
        return self.answer(await argument if asyncio.iscoroutine(argument) else argument)


def proxy_of(content) -> np.ndarray:
    """A unit vector along the axis of the title's length."""
    return 2 * np.eye(8, dtype=np.float32)[len(content.title or "") % 8]


@pytest.fixture
def gateway(tmp_path) -> Gateway:
    torch.manual_seed(0)
    ranker = DinDcn(ITEMS + 1, tiny_recipe(tmp_path, "items").ranker)
    ranker.trained[1 : TRAINED + 1] = True
    save_ranker(ranker, tmp_path, IDS)
    fill_store(tmp_path, SPACE, np.arange((ITEMS + 1) * 8, dtype=np.float32).reshape(-1, 8))
    store = ItemStore(tmp_path, SPACE, PROXY_COLUMNS)
    store.neighbors.write(IDS[:TRAINED], ROWS)
    store.close()
    models = (
        Model(lambda content: (content, 1)),
        Model(lambda content: (proxy_rows(proxy_of(content)[None])[0], 1)),
        Model(lambda queries: [np.full(len(query.item_idx), 0.5, np.float32) for query in queries]),
    )
    release = ReleaseResponse(release="r/1", project="r", alias=None, versions={}, fingerprints={"scorer": SPACE})
    return Gateway(
        [ReleaseSpec(release, "idproxy", {"ranker": tmp_path}, *models)],
        None,
        Serving(max_request_bytes=200_000, store=Store(max_items_per_publish=4)),
        Data(max_image_bytes=50_000, max_image_pixels=10_000),
        tmp_path,
    )


@pytest.fixture
def client(gateway):
    with TestClient(make_app(gateway), raise_server_exceptions=False) as client:
        yield client


def kinds(client, *names):
    body = {"candidates": [{"item_id": name} for name in names]}
    return client.post("/v1/rank", json=body).raise_for_status().json()["slot_sources"]


def test_an_invalid_item_does_not_affect_the_others(client):
    items = [
        {"item_id": "one", "title": "a"},
        {"item_id": "two", "title": "b", "image": base64.b64encode(b"no image").decode()},
        {"item_id": "three"},
        {"item_id": "four", "title": "d"},
    ]
    answer = client.post("/v1/items", json={"items": items}).raise_for_status().json()
    assert (answer["published"], answer["failed"], answer["release"]) == (2, 2, "r/1")
    assert [one["item_id"] for one in answer["items"]] == ["one", "two", "three", "four"]
    codes = [one["error"] and one["error"]["code"] for one in answer["items"]]
    assert codes == [None, "bad_image", "invalid", None]
    assert kinds(client, "one", "two", "three", "four") == ["proxy", "oov", "oov", "proxy"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"items": []}, "items"),
        ({"items": {"item_id": "x"}}, "items"),
        ({"items": [{"item_id": "x", "title": "t"}], "item_id": "y"}, "no other key"),
        ({"items": [{"item_id": "x", "title": "t"}] * 5}, "at most 4"),
    ],
)
def test_an_invalid_list_of_items_is_refused(client, body, where):
    answer = client.post("/v1/items", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    assert where in answer.json()["error"]["message"]


def test_forms_send_images_as_files(client, gateway):
    answer = client.post("/v1/items", data={"item_id": "one", "title": "a"}, files={"image": ("p.png", png_image(3))})
    assert answer.raise_for_status().json()["item_id"] == "one"
    items = [{"item_id": "two", "title": "b", "image": "file-2"}, {"item_id": "three", "image": "file-3"}]
    files = {"file-2": ("2.png", png_image(4)), "file-3": ("3.png", b"no image")}
    answer = client.post("/v1/items", data={"items": json.dumps(items)}, files=files).raise_for_status().json()
    assert [one["error"] and one["error"]["code"] for one in answer["items"]] == [None, "bad_image"]
    found = gateway.champion.store.publication_log.find
    assert [found(name).content.image for name in ("one", "two")] == [png_image(3), png_image(4)]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"item_id=x", "application/x-www-form-urlencoded", 415),
        (b'--b\r\nContent-Disposition: form-data; name="item_id"\r\n\r\nx', "multipart/form-data; boundary=b", 422),
        (b"nothing", "multipart/form-data", 400),
        (b"", "multipart/form-data; boundary=b", 422),
    ],
)
def test_a_broken_form_is_refused(client, content, kind, status):
    answer = client.post("/v1/items", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message"}


def test_an_item_is_looked_up(client):
    client.post("/v1/items", json={"item_id": "a/new one", "title": "abc"}).raise_for_status()
    answer = client.get("/v1/items/a%2Fnew%20one").raise_for_status().json()
    assert answer["rankable_at"] >= answer["published_at"] > 0
    known = {
        "slot_source": "proxy",
        "proxy_norm": 2,
        "semantic_id": None,
        "in_catalog": False,
        "origin": "api",
        "title": "abc",
        "features": None,
    }
    assert known.items() <= answer.items()
    trained = client.get(f"/v1/items/{IDS[0]}").json()
    assert (trained["slot_source"], trained["in_catalog"], trained["origin"]) == ("id", True, None)
    assert client.get("/v1/items/nobody").status_code == 404


def test_a_withdrawn_item_is_unknown_until_published_again(client):
    client.post("/v1/items", json={"item_id": "new", "title": "abc"}).raise_for_status()
    for name in ("new", IDS[0], IDS[-1]):
        assert client.delete(f"/v1/items/{name}").raise_for_status().json() == {"item_id": name, "release": "r/1"}
        for answer in (client.get(f"/v1/items/{name}"), client.delete(f"/v1/items/{name}")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert kinds(client, "new", IDS[0], IDS[-1], IDS[1]) == ["oov", "oov", "oov", "id"]
    client.post("/v1/items", json={"item_id": "new", "title": "abc"}).raise_for_status()
    assert kinds(client, "new") == ["proxy"]


def test_neighbors_are_mature_items_by_cosine(client):
    client.post("/v1/items", json={"item_id": "new", "title": "abc"}).raise_for_status()
    answer = client.get("/v1/items/new/neighbors?k=2").raise_for_status().json()
    assert answer["neighbors"][0] == {"item_id": IDS[3], "cosine": 1.0}
    assert (len(answer["neighbors"]), answer["search"], answer["item_id"]) == (2, "exact", "new")
    client.delete(f"/v1/items/{IDS[3]}")
    names = [one["item_id"] for one in client.get("/v1/items/new/neighbors?k=100").json()["neighbors"]]
    assert sorted(names) == sorted(set(IDS[:TRAINED]) - {IDS[3]})
    own = [one["item_id"] for one in client.get(f"/v1/items/{IDS[0]}/neighbors?k=100").json()["neighbors"]]
    assert IDS[0] not in own
    assert client.get("/v1/items/nobody/neighbors").status_code == 404
    assert client.get("/v1/items/new/neighbors?k=0").status_code == 422


def test_the_other_served_release_gets_the_item_too(gateway, tmp_path):
    class Broken:
        def __init__(self, inner):
            self.inner, self.store = inner, inner.store

        async def encode_item(self, content, features):
            raise RuntimeError("the challenger's models are gone")

    other = ItemStore(tmp_path, "b" * 64, PROXY_COLUMNS)
    server = type(gateway.champion)(
        gateway.release,
        gateway.champion.models,
        gateway.champion.catalog,
        other,
        gateway.settings,
        gateway.data,
        gateway.stats,
    )
    request = PublishRequest(item_id="new", title="abc")
    gateway.items.servers = [gateway.champion, server]
    asyncio.run(gateway.items.publish([request]))
    other.catch_up()
    assert other.row("new")["proxy"].tolist() == proxy_of(request).tolist()
    gateway.items.servers = [gateway.champion, Broken(server)]
    asyncio.run(gateway.items.publish([PublishRequest(item_id="newer", title="ab")]))
    assert [item.item_id for item in other.publication_log.items_without_row(0, 10)] == ["newer"]


def test_waiting_publications_are_written_together():
    written = []

    class Log:
        def publish(self, entries):
            written.append(list(entries))
            if "bad" in entries:
                raise OSError("disk full")
            return [int(entry) for entry in entries]

    async def many():
        commits = _GroupCommit(Log())
        first = asyncio.create_task(commits.add(["1"]))
        await asyncio.sleep(0)
        rest = [asyncio.create_task(commits.add(entries)) for entries in (["2", "3"], ["4"], [])]
        assert await asyncio.gather(first, *rest) == [[1], [2, 3], [4], []]
        with pytest.raises(OSError, match="disk full"):
            await commits.add(["bad"])
        assert await commits.add(["5"]) == [5]

    asyncio.run(many())
    assert written[:2] == [["1"], ["2", "3", "4"]]
