"""A promotion reaches traffic: a real registry, real Ray Serve, requests all the while."""

import signal
import sys
import time

import httpx
import pytest
import torch

from coldstart.alignment import load_adaptor, save_adaptor
from coldstart.config import Journal, dump_recipe, read_artifact, write_artifact
from coldstart.config.recipe import Registry as Settings
from coldstart.registry import Registry, promote, rollback
from tests.registry.servers import Server, free_port
from tests.serving.tiny import IDS, register_run, tiny_recipe, write_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
UNGATED = Settings(gates=())
BODY = {"candidates": [{"item_id": item} for item in IDS], "now": 100}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "followed", port=free_port(), poll_s=0.5)
    write_run(recipe)
    return recipe


@pytest.fixture(scope="module")
def registry(recipe):
    registry = Registry(recipe.tracking_uri, recipe.project)
    register_run(recipe, registry)
    promote(registry, "adaptor", 1, UNGATED)
    return registry


def register_another_adaptor(recipe, registry) -> int:
    first = read_artifact(recipe.run_dir / "adaptor", "adaptor")
    adaptor = load_adaptor(first.path)
    with torch.no_grad():
        for weight in adaptor.parameters():
            weight.mul_(-1)
    with write_artifact(first.path, "adaptor", first.lineage, first.about) as draft:
        save_adaptor(adaptor, draft)
    upstream = {"ranker": 1, "encoder": 1}
    journal = Journal(recipe.run_dir / "journals" / "adaptor.jsonl")
    return registry.register(
        "adaptor", first.path, recipe=recipe, upstream=upstream, metrics={}, journal=journal
    ).version


def seconds_until(url: str, release: str, seen: dict[str, list[float]]) -> float:
    """Asks without pause until a release answers; every answer must be whole and, per release, the same."""
    began = time.monotonic()
    with httpx.Client(base_url=url, timeout=30) as client:
        while True:
            answer = client.post("/v1/rank", json=BODY).raise_for_status().json()
            assert answer["scores"] == pytest.approx(seen.setdefault(answer["release"], answer["scores"]), abs=1e-6)
            if answer["release"] == release:
                return time.monotonic() - began
            assert time.monotonic() - began < 120


def test_promotion_and_rollback_reach_traffic_without_a_failed_request(recipe, registry, tmp_path):
    """The program `coldstart serve` runs, with a Ray of its own."""
    file = tmp_path / "followed.yaml"
    file.write_text(dump_recipe(recipe))
    url = f"http://127.0.0.1:{recipe.serving.port}"
    command = [sys.executable, "-m", "workloads.serve", "--recipe", str(file)]
    seen: dict[str, list[float]] = {}
    program = Server(command, f"{url}/readyz", tmp_path / "serve.log", {"RAY_ADDRESS": ""})
    program.start()
    try:
        seconds_until(url, "followed-adaptor/1", seen)
        promote(registry, "adaptor", register_another_adaptor(recipe, registry), UNGATED)
        forward = seconds_until(url, "followed-adaptor/2", seen)
        assert seen["followed-adaptor/1"] != pytest.approx(seen["followed-adaptor/2"], abs=1e-4)
        rollback(registry, "adaptor", why="try")
        back = seconds_until(url, "followed-adaptor/1", seen)
    finally:
        program.process.send_signal(signal.SIGINT)
        program.process.wait(60)
    print(f"promotion to traffic {forward:.1f} s, rollback to traffic {back:.1f} s")
