"""A challenger on a real Ray Serve: a bad one is aborted without a failed request, a good one serves its users."""

import time

import httpx
import pytest
import torch

from coldstart.config.recipe import Challenger
from coldstart.registry import Registry, read_release
from coldstart.serving.ab_test.experiment import TrafficSplit
from coldstart.serving.deployment.application import deploy, shutdown
from tests.serving.deployment.test_application import free_port
from tests.serving.tiny import IDS, register_run, tiny_recipe, write_run

pytestmark = pytest.mark.ray
SETTINGS = Challenger(traffic_fraction=0.5, min_requests=20)
USERS = [f"user-{number}" for number in range(60)]


def spoil(ranker) -> None:
    """Makes a ranker that passes all checks, and fails for histories older than those of the golden requests."""
    with torch.no_grad():
        ranker.biased_mf.user_interest.time_gap_bias.bias[:, 28:] = torch.nan


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    recipe = tiny_recipe(runs, "challenged", port=free_port(), ingress="proxy", challenger=SETTINGS.model_dump())
    registry = Registry(recipe.tracking_uri, recipe.project)
    for change in ({}, {"spoil": spoil}, {}):
        write_run(recipe, **change)
        register_run(recipe, registry)
        recipe = recipe.model_copy(update={"seed": recipe.seed + 1})
    return recipe, [read_release(registry, version) for version in (1, 2, 3)]


@pytest.fixture
def deployed(local_ray, releases):
    recipe, (champion, *others) = releases
    yield lambda other: deploy(
        champion, recipe.serving, recipe.run_dir / "store", challenger=None if other is None else others[other]
    )
    shutdown()


def rank_all(url: str) -> dict[str, tuple[str, list[float]]]:
    """User -> release and scores; every request must succeed."""
    with httpx.Client(base_url=url, timeout=30) as client:
        history = [{"item_id": IDS[0], "label": 1, "timestamp": 0}]
        body = {"candidates": [{"item_id": item} for item in IDS], "history": history, "now": 2**30}
        answers = {
            user: client.post("/v1/rank", json=body | {"user_id": user}).raise_for_status().json() for user in USERS
        }
    return {user: (answer["release"], answer["scores"]) for user, answer in answers.items()}


def test_a_bad_challenger_is_aborted_without_a_failed_request_and_a_good_one_serves_its_users(deployed):
    url = deployed(0)
    assert httpx.get(f"{url}/v1/release").json()["challenger"]["state"] == "answering"
    seen = rank_all(url)
    assert {release for release, _ in seen.values()} == {"challenged-scorer/1"}
    right = seen[USERS[0]][1]
    assert all(scores == pytest.approx(right, abs=1e-6) for _, scores in seen.values())
    deadline = time.monotonic() + 30
    while (status := httpx.get(f"{url}/v1/release").json()["challenger"])["state"] != "aborted":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert status["release"] == "challenged-scorer/2"
    assert "requests failed" in status["reason"]
    assert httpx.get(f"{url}/v1/stats").json()["challenger"]["failed_per_s"] > 0
    # Deployed again with the same champion, it stays aborted; another challenger gets a new test.
    assert httpx.get(f"{deployed(0)}/v1/release").json()["challenger"]["state"] == "aborted"
    url = deployed(1)
    seen = rank_all(url)
    split = TrafficSplit("challenged-scorer/3", SETTINGS)
    expected = {user: "challenged-scorer/3" if split.to_challenger(user) else "challenged-scorer/1" for user in USERS}
    assert {user: release for user, (release, _) in seen.items()} == expected
    of = {release: scores for release, scores in seen.values()}
    assert len(of) == 2
    assert all(scores == pytest.approx(of[release], abs=1e-6) for release, scores in seen.values())
    assert of["challenged-scorer/1"] == pytest.approx(right, abs=1e-6)
    answer = httpx.post(f"{url}/v1/rank", json={"candidates": [{"item_id": IDS[0]}]}, headers={"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    event = {"item_id": IDS[0], "label": 1, "request_id": "mine"}
    assert httpx.post(f"{url}/v1/feedback", json={"events": [event]}).status_code == 202
    while httpx.get(f"{url}/v1/stats").json()["champion"]["calibration"].get("id", {"rows": 0})["rows"] < 1:
        assert time.monotonic() < deadline + 120
        time.sleep(0.2)
    assert httpx.get(f"{deployed(None)}/v1/release").json()["challenger"] is None
