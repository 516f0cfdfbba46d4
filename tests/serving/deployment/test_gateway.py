"""The HTTP API of one gateway, with fake models that answer, wait, refuse or fail."""

import base64
import json
import re
import struct
import zlib

import numpy as np
import pytest

from coldstart.serving.store.item_store import FoundRows
from tests.serving.tiny import IDS, ITEMS, SHARE, WARMING, png_image


def ids(*names: str) -> dict[str, object]:
    return {"candidates": [{"item_id": name} for name in names]}


def test_each_candidate_gets_its_slot_source(client, gateway):
    client.post("/v1/items", json={"item_id": "new", "title": "a new film"}).raise_for_status()
    client.post("/v1/items", json={"item_id": IDS[-1], "title": "read again"}).raise_for_status()
    client.post("/v1/items", json={"item_id": IDS[0], "title": "trained already"}).raise_for_status()
    body = ids(IDS[0], IDS[-2], IDS[-1], "new", "nobody")
    body["candidates"].append({"title": "given by content"})
    answer = client.post("/v1/rank", json=body).json()
    assert answer["slot_sources"] == ["id", "proxy", "proxy", "proxy", "oov", "proxy"]
    assert len(answer["scores"]) == 6
    query = gateway.champion.models.scorer.asked[-1]
    assert query.item_idx.tolist() == [1, ITEMS - 1, ITEMS, 0, 0, 0]
    proxies, catalog = query.rows["proxy"][query.item_row], np.arange(8.0)
    assert (query.item_row > 0).tolist() == [True, True, True, True, False, True]
    assert proxies[1].tolist() == (catalog + 8 * (ITEMS - 1)).tolist()
    assert (proxies[[0, 2, 3, 5]] == 3).all()
    assert proxies[4].tolist() == catalog.tolist()


def test_a_warming_item_is_blended_or_uses_its_row_without_a_proxy(client, gateway):
    gateway.champion.catalog.id_weight[WARMING] = SHARE
    client.post("/v1/items", json={"item_id": "new", "title": "a new film"}).raise_for_status()
    body = ids("new", IDS[0], IDS[WARMING - 1], IDS[-1])
    assert client.post("/v1/rank", json=body).json()["slot_sources"] == ["proxy", "id", "blended", "proxy"]
    query = gateway.champion.models.scorer.asked[-1]
    assert query.rows["proxy"][query.item_row[2]].tolist() == list(range(8 * WARMING, 8 * WARMING + 8))
    client.post("/v1/items", json={"item_id": IDS[WARMING - 1], "title": "read again"}).raise_for_status()
    client.post("/v1/rank", json=body).raise_for_status()
    query = gateway.champion.models.scorer.asked[-1]
    assert (query.rows["proxy"][query.item_row[2]] == 3).all()
    missing = FoundRows(np.zeros(5, query.rows.dtype), np.zeros(4, bool), [])
    gateway.champion.store.find_rows = lambda item_ids, index: missing
    assert client.post("/v1/rank", json=body).json()["slot_sources"] == ["oov", "id", "id", "oov"]


def test_unknown_history_items_are_kept_as_oov(client, gateway):
    event = {"item_id": "nobody", "label": 1, "timestamp": 5}
    client.post("/v1/rank", json={"history": [event, {**event, "item_id": IDS[2]}], **ids(IDS[0])}).raise_for_status()
    assert gateway.champion.models.scorer.asked[-1].history_idx.tolist() == [0, 3]


def bomb() -> bytes:
    """A PNG of a few bytes whose header states 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/items", {"item_id": "x"}, "at least one of"),
        ("/v1/items", {"item_id": "", "title": "t"}, "item_id"),
        ("/v1/items", {"item_id": "x" * 300, "title": "t"}, "item_id"),
        ("/v1/items", {"item_id": 7, "title": "t"}, "item_id"),
        ("/v1/items", {"item_id": "x", "title": "t", "url": "http://x"}, "url"),
        ("/v1/items", {"item_id": "x", "title": "t" * 3000}, "title"),
        ("/v1/items", {"item_id": "x", "image": "%%%"}, "not valid base64"),
        ("/v1/items", {"item_id": "x", "image": encoded(b"not an image")}, "image"),
        ("/v1/items", {"item_id": "x", "image": encoded(png_image(3)[:60])}, "image"),
        ("/v1/items", {"item_id": "x", "image": encoded(bomb())}, "pixels"),
        ("/v1/items", {"item_id": "x", "image": encoded(b"0" * 60_000)}, "bytes"),
        ("/v1/rank", {}, "candidates"),
        ("/v1/rank", {"candidates": []}, "candidates"),
        ("/v1/rank", ids(*["x"] * 41), "at most 40"),
        ("/v1/rank", {"candidates": [{"title": "t"}] * 33}, "at most 32"),
        ("/v1/rank", {"candidates": [{"image": encoded(b"no")}]}, "candidates.0.image"),
        ("/v1/rank", {"candidates": [{"item_id": "x", "title": "t"}]}, "either item_id, or content"),
        ("/v1/rank", {**ids("x"), "history": [{"item_id": "x", "label": 2, "timestamp": 1}]}, "label"),
        ("/v1/rank", {**ids("x"), "history": [{"item_id": "x", "label": True, "timestamp": 1}]}, "label"),
        ("/v1/rank", {**ids("x"), "history": [{"item_id": "x", "label": 1, "timestamp": 10**30}]}, "timestamp"),
        ("/v1/rank", {**ids("x"), "now": -1}, "now"),
        ("/v1/rank", [1, 2], ""),
    ],
)
def test_the_error_message_names_the_invalid_field(client, gateway, path, body, where):
    answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message"}
    assert where in answer.json()["error"]["message"]
    assert not gateway.champion.models.scorer.asked
    assert not gateway.champion.store.publication_log.changes(0, 10)


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/items"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"now": ' + b"9" * 5000 + b"}",
        b'{"now": NaN}',
        b'{"now": -Infinity}',
        b'{"candidates": [{"item_id": "\\ud800"}]}',
        b'{"candidates": [{"item_id": "a", "item_id": "b"}]}',
        b'{"item_id": "x", "title": "t", "title": "u"}',
    ],
)
def test_bodies_that_are_not_plain_json_are_refused(client, gateway, path, raw):
    answer = client.post(path, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400 or not raw
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error"}
    assert len(answer.text) < 400
    assert not gateway.champion.models.scorer.asked


def test_several_users_are_answered_in_order(client):
    requests = [{**ids(*IDS[:count]), "user_id": f"u{count}"} for count in (3, 1, 2)]
    answer = client.post("/v1/rank", json={"requests": requests}).json()
    assert [len(one["scores"]) for one in answer["responses"]] == [3, 1, 2]
    assert answer["responses"][1] | {"ms": 0} == client.post("/v1/rank", json=requests[1]).json() | {"ms": 0}


def test_the_error_names_the_invalid_request_of_several(client, gateway):
    answer = client.post("/v1/rank", json={"requests": [ids("x"), {**ids("x"), "now": -1}]})
    assert (answer.status_code, answer.json()["error"]["message"][:15]) == (422, "requests.1.now:")
    answer = client.post("/v1/rank", json={"requests": [ids("x"), ids(*["x"] * 41)]})
    assert (answer.status_code, answer.json()["error"]["message"][:11]) == (422, "requests.1.")
    assert client.post("/v1/rank", json={"requests": [ids("x")] * 65}).status_code == 422


def test_only_json_is_parsed_as_json(client):
    answer = client.post("/v1/rank", content=json.dumps(ids("x")), headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("announced", [True, False])
def test_large_body_is_refused(client, announced):
    body = b"x" * 300_000
    answer = client.post("/v1/rank", content=body if announced else iter([body[:150_000], body[150_000:]]))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("behavior", "status", "code"), [("slow", 504, "timeout"), ("full", 429, "busy"), ("broken", 500, "internal")]
)
@pytest.mark.parametrize("part", ["scorer", "encoder"])
def test_internal_errors_have_the_error_body_without_details(client, gateway, part, behavior, status, code):
    getattr(gateway.champion.models, part).behavior = behavior
    answer = client.post("/v1/rank", json={"candidates": [{"title": "by content"}]})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) is (status == 429)


@pytest.mark.parametrize("trouble", ["broken", "nonsense"])
def test_not_ready_while_a_model_does_not_answer(client, gateway, trouble):
    models = gateway.champion.models
    if trouble == "broken":
        models.encoder.behavior = "broken"
    else:
        models.scorer.answer = lambda queries: [np.array([np.nan]) for _ in queries]
    assert client.get("/healthz").json() == {"status": "alive"}
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")


def test_probes_share_a_golden_request(client, gateway):
    for _ in range(20):
        assert client.get("/readyz").json() == {"status": "ready", "release": "demo-scorer/1"}
    assert len(gateway.champion.models.scorer.asked) < 5


def test_unknown_path_and_method_have_the_error_body(client):
    assert client.get("/v2").json()["error"]["code"] == "not_found"
    assert client.get("/v1/rank").json()["error"]["code"] == "method_not_allowed"


def test_openapi_contains_the_api_and_its_errors(client):
    schema = client.get("/openapi.json").json()
    items = {"/v1/items", "/v1/items/{item_id}", "/v1/items/{item_id}/neighbors"}
    watched = {"/v1/release", "/v1/feedback", "/v1/stats", "/healthz", "/readyz"}
    assert {*items, *watched, "/v1/rank"} <= set(schema["paths"])
    rank = schema["paths"]["/v1/rank"]["post"]
    assert {"200", "413", "422", "429", "503", "504"} <= set(rank["responses"])
    assert rank["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorResponse")
    body = schema["paths"]["/v1/items"]["post"]["requestBody"]["content"]
    one = body["application/json"]["schema"]["anyOf"][0]
    assert one["properties"]["image"]["anyOf"][0]["contentEncoding"] == "base64"
    assert "multipart/form-data" in body
    names = set(re.findall(r'#/components/schemas/(\w+)"', json.dumps(schema)))
    assert (
        {"RankRequest", "RankBatchRequest", "Candidate", "HistoryEvent"}
        <= names
        <= set(schema["components"]["schemas"])
    )


def test_the_examples_in_openapi_work(client):
    schema = client.get("/openapi.json").json()
    content = schema["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]
    assert len(content["examples"]) == 2
    for example in content["examples"].values():
        assert client.post("/v1/rank", json=example["value"]).status_code == 200
    content = schema["paths"]["/v1/items"]["post"]["requestBody"]["content"]["application/json"]
    (item,) = content["schema"]["anyOf"][0]["examples"]
    assert client.post("/v1/items", json=item).status_code == 200


def test_the_api_page_loads_nothing_from_the_network(client):
    page = client.get("/docs")
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text).replace("/* ", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    parts = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(parts) == 3
    for part in parts:
        assert len(client.get(f"/{part}").raise_for_status().content) > 500
    assert client.get("/docs/__init__.py").status_code == 404


@pytest.mark.parametrize(("given", "kept"), [("order-7:a", True), ("x" * 65, False), ("a b", False), ("", False)])
@pytest.mark.parametrize(("path", "status"), [("/v1/rank", 200), ("/v2", 404)])
def test_every_response_has_its_request_id(client, given, kept, path, status):
    answer = client.post(path, json=ids(IDS[0]), headers={"X-Request-Id": given})
    assert answer.status_code == status
    assert (answer.headers["x-request-id"] == given) is kept
    assert 0 < len(answer.headers["x-request-id"]) <= 64


def test_an_unexpected_failure_has_its_request_id(client, gateway):
    gateway.champion.models.scorer.behavior = "broken"
    answer = client.post("/v1/rank", json=ids(IDS[0]), headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
