"""The whole application on a real Ray Serve, with real tiny models, from a real registry."""

import base64
import os
import re
import socket
import threading
import time

import httpx
import numpy as np
import psutil
import pytest
import ray
import torch
from ray import serve

from coldstart.config import UserError
from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import find_method
from coldstart.registry import Registry, promote, resolve
from coldstart.serving.core.golden_requests import golden_metrics
from coldstart.serving.deployment.application import check_port, deploy, shutdown
from tests.cluster.listening import addresses_beyond_loopback
from tests.serving.monitoring.test_prometheus import names
from tests.serving.tiny import (
    HISTORY,
    IDS,
    ITEMS,
    TRAINED,
    WARMING,
    content,
    register_run,
    tiny_recipe,
    write_run,
)

pytestmark = pytest.mark.ray


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "served", port=free_port(), stats={"reference_window_s": 1})
    write_run(recipe)
    return recipe


@pytest.fixture(scope="module")
def release(recipe):
    registry = Registry(recipe.tracking_uri, recipe.project)
    register_run(recipe, registry)
    assert promote(registry, 1, recipe.registry, measure=golden_metrics).event.action == "promoted"
    return resolve(registry, "champion")


@pytest.fixture(scope="module")
def url(local_ray, recipe, release):
    yield deploy(release, recipe.serving, recipe.run_dir / "store")
    shutdown()


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def published(client, name: str, index: int) -> dict[str, object]:
    item = content(index)
    body = {"item_id": name, "title": item.title, "text": item.text, "image": base64.b64encode(item.image).decode()}
    return client.post("/v1/items", json=body).raise_for_status().json()


def test_nothing_of_it_listens_beyond_loopback(url):
    assert addresses_beyond_loopback(os.getpid()) == {}


def test_release_and_health_name_the_served_release(client, release):
    answer = client.get("/v1/release").json()
    assert answer["release"] == "served-scorer/1"
    assert answer["alias"] == "champion"
    assert answer["versions"] == {"scorer": 1, "ranker": 1, "encoder": 1}
    assert answer["fingerprints"]["scorer"] == release.scorer.fingerprint
    assert client.get("/readyz").json() == {"status": "ready", "release": "served-scorer/1"}


@pytest.mark.parametrize("given", ["mine", "not a valid id", None])
def test_a_response_has_one_id_the_clients_if_it_is_valid(client, given):
    answer = client.get("/v1/release", headers={} if given is None else {"x-request-id": given})
    (name,) = answer.headers.get_list("x-request-id")
    assert name
    assert (name == "mine") is (given == "mine")


def test_deploy_leaves_no_thread_that_calls_ray_after_shutdown(url):
    assert not [thread.name for thread in threading.enumerate() if "router" in thread.name]


def offline_items(release) -> ItemTable:
    """The catalog as offline evaluation reads it."""
    adaptor = find_method(release.method).load_adaptor(release.paths)
    with torch.inference_mode():
        return ItemTable(adaptor(ItemTable.open(release.items.path).columns))


def largest_gap(client, release, *, rows: int) -> tuple[float, set[tuple[int, str]]]:
    """Largest difference between served and offline scores, and (catalog index, slot source) of all candidates."""
    scorer, items = find_method(release.method).load_scorer(release.paths), offline_items(release)
    rng = np.random.default_rng(11)
    worst, sources = 0.0, set()
    for _ in range(rows // 5):
        seen = rng.integers(0, ITEMS + 1, rng.integers(0, 12))
        labels, times = rng.integers(0, 2, len(seen)), rng.integers(1000, 1100, len(seen))
        targets = rng.integers(0, ITEMS + 1, 5)
        batch = rank_request(seen, labels, times, targets, 1080, history=HISTORY)
        with torch.inference_mode():
            offline = torch.sigmoid(scorer(batch, items))[0].numpy()
        names = [IDS[index - 1] if index else "nobody" for index in targets]
        history = [
            {"item_id": IDS[index - 1] if index else "nobody", "label": int(label), "timestamp": int(time)}
            for index, label, time in zip(seen, labels, times, strict=True)
        ]
        body = {"history": history, "candidates": [{"item_id": name} for name in names], "now": 1080}
        answer = client.post("/v1/rank", json=body).raise_for_status().json()
        sources |= set(zip(targets.tolist(), answer["slot_sources"], strict=True))
        worst = max(worst, float(np.abs(np.array(answer["scores"]) - offline).max()))
    return worst, sources


def test_served_score_equals_the_offline_score_of_the_same_row(client, release):
    worst, sources = largest_gap(client, release, rows=250)
    known = ["oov", *["id"] * TRAINED, *["proxy"] * (ITEMS - TRAINED)]
    known[WARMING] = "blended"
    assert sources == set(enumerate(known))
    assert worst < 1e-5


def test_published_item_is_ranked_by_its_proxy_immediately(client):
    body = {"candidates": [{"item_id": "brand-new"}, {"item_id": IDS[TRAINED]}], "now": 100}
    before = client.post("/v1/rank", json=body).json()
    assert before["slot_sources"] == ["oov", "proxy"]
    # The same content as a cold item of the catalog, so both must get the same score afterwards.
    assert published(client, "brand-new", TRAINED + 1)["proxy_norm"] > 0
    after = client.post("/v1/rank", json=body).json()
    assert after["slot_sources"] == ["proxy", "proxy"]
    assert after["scores"][0] == pytest.approx(after["scores"][1], abs=1e-4)
    assert after["scores"][0] != before["scores"][0]


def test_candidate_by_content_scores_like_the_published_item(client):
    published(client, "by-id", 3)
    item = content(3)
    given = {"title": item.title, "text": item.text, "image": base64.b64encode(item.image).decode()}
    answer = client.post("/v1/rank", json={"candidates": [{"item_id": "by-id"}, given], "now": 100}).json()
    assert answer["scores"][0] == pytest.approx(answer["scores"][1], abs=1e-4)


def test_prometheus_has_the_metrics_of_the_dashboard(client):
    published(client, "measured", 4)
    candidates = [{"item_id": "measured"}, {"item_id": IDS[0]}, {"item_id": "nobody"}, {"title": "by content"}]
    client.post("/v1/rank", json={"candidates": candidates, "user_id": "anna"}).raise_for_status()
    event = {"item_id": IDS[0], "label": 1, "user_id": "anna"}
    client.post("/v1/feedback", json={"events": [event]}).raise_for_status()
    asked = {name for file in ("serving.json", "alerts.yml") for name in names(file)}
    # These need a challenger or a second promotion.
    asked -= {name for name in asked if re.search("challenger_fallbacks|shadow|proxy_id_cosine", name)}
    (node,) = (node for node in ray.nodes() if node["Alive"])
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 120
    while missing := asked - set(re.findall(r"^(ray_coldstart_\w+)", httpx.get(page, timeout=30).text, re.M)):
        assert time.monotonic() < deadline, missing
        time.sleep(1)


def test_errors_keep_their_body_through_serve(client):
    answer = client.post("/v1/rank", json={"candidates": [{"item_id": "x"}] * 41})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    answer = client.post("/v1/rank", content=b"x" * 300_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_published_item_survives_a_restart_and_reaches_every_replica(client, recipe, release):
    published(client, "lasting", 2)
    body = {"candidates": [{"item_id": "lasting"}], "now": 100}
    before = client.post("/v1/rank", json=body).json()
    shutdown()
    with pytest.raises(httpx.HTTPError):
        client.get("/readyz")
    two = recipe.serving.model_copy(update={"min_replicas": 2, "max_replicas": 2})
    url = deploy(release, two, recipe.run_dir / "store")
    published(client, "later", 2)
    for name in ("lasting", "later"):
        for _ in range(10):
            after = httpx.post(f"{url}/v1/rank", json={**body, "candidates": [{"item_id": name}]}, timeout=30).json()
            assert after["slot_sources"] == ["proxy"]
            assert after["scores"] == pytest.approx(before["scores"], abs=1e-5)


def test_every_replica_has_few_heaps(url):
    """Replicas inherit the environment variable from Serve's controller, on any machine."""
    environments = [
        process.environ()
        for process in psutil.Process().children(recursive=True)
        if any(title.startswith("ray::ServeReplica") for title in process.cmdline()[:1])
    ]
    assert len(environments) >= 3
    assert {environment.get("MALLOC_ARENA_MAX") for environment in environments} == {"2"}


@pytest.mark.slow
def test_other_applications_keep_running(url, recipe, release):
    @serve.deployment
    class Other:
        async def __call__(self) -> None: ...

    serve.run(Other.bind(), name="others", route_prefix=None)
    again = recipe.serving.model_copy(update={"max_batch": 4})
    deploy(release, again, recipe.run_dir / "store")
    assert len(serve.status().applications) == 4
    shutdown()
    assert set(serve.status().applications) == {"others"}
    deploy(release, again, recipe.run_dir / "store")
    assert len(serve.status().applications) == 4
    serve.delete("others")
    shutdown()
    assert not serve.status().applications


def test_port_in_use_is_reported(url, recipe, release):
    shutdown()
    with socket.create_server(("127.0.0.1", recipe.serving.port)):
        with pytest.raises(UserError, match=r"serving\.port"):
            check_port(recipe.serving)
        with pytest.raises(UserError, match=r"serving\.port"):
            deploy(release, recipe.serving, recipe.run_dir / "store")
    check_port(recipe.serving)


@pytest.mark.slow
def test_a_joint_release_is_served_like_a_frozen_one(local_ray, tmp_path_factory):
    """Registered, promoted and deployed; 1,000 served scores equal the offline scores of the same rows."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "joint", port=free_port(), scorer_placement="separate")
    write_run(recipe, mode="joint")
    registry = Registry(recipe.tracking_uri, recipe.project)
    register_run(recipe, registry)
    promote(registry, 1, recipe.registry, measure=golden_metrics)
    release = resolve(registry, "champion")
    try:
        url = deploy(release, recipe.serving, recipe.run_dir / "store")
        with httpx.Client(base_url=url, timeout=30) as client:
            worst, sources = largest_gap(client, release, rows=1000)
            assert worst < 1e-5
            assert sources == set(enumerate(["oov", *["blended"] * TRAINED, *["proxy"] * (ITEMS - TRAINED)]))
            # The same content as a cold item of the catalog, so both must get the same score.
            published(client, "brand-new", TRAINED + 1)
            body = {"candidates": [{"item_id": "brand-new"}, {"item_id": IDS[TRAINED]}], "now": 100}
            answer = client.post("/v1/rank", json=body).json()
            assert answer["slot_sources"] == ["proxy", "proxy"]
            assert answer["scores"][0] == pytest.approx(answer["scores"][1], abs=1e-4)
    finally:
        shutdown()
