"""`coldstart serve`: promotions reach traffic, progress is printed, and signals end it cleanly."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from coldstart.config import UserError, dump_recipe
from coldstart.config.recipe import Registry as Settings
from coldstart.jobs.serving import serve
from coldstart.registry import Registry, promote, rollback
from tests.registry.servers import Server, free_port
from tests.serving.tiny import IDS, register_run, tiny_recipe, write_run, write_scorer

UNGATED = Settings(gates=())
BODY = {"candidates": [{"item_id": item} for item in IDS], "now": 100}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "followed", port=free_port(), poll_interval_s=0.5)
    write_run(recipe)
    return recipe


@pytest.fixture(scope="module")
def registry(recipe):
    registry = Registry(recipe.tracking_uri, recipe.project)
    register_run(recipe, registry)
    promote(registry, 1, UNGATED)
    return registry


@contextmanager
def load(url: str, clients: int, seen: dict[str, list[float]]) -> Iterator[list[str]]:
    """Sends requests from several clients inside the block, and yields what went wrong.

    Each answer must be complete and, per release, the same.
    """
    stop, failures = threading.Event(), []

    def send() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/rank", json=BODY).raise_for_status().json()
                except httpx.HTTPError as error:
                    failures.append(repr(error))
                    continue
                if answer["scores"] != pytest.approx(seen.setdefault(answer["release"], answer["scores"]), abs=1e-6):
                    failures.append(f"another score of {answer['release']}")

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def seconds_until(release: str, seen: dict[str, list[float]]) -> float:
    """Waits until a release answers for the first time since the call."""
    began = time.monotonic()
    seen.pop(release, None)
    while release not in seen:
        assert time.monotonic() - began < 120
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.ray
@pytest.mark.slow
def test_a_swap_to_a_joint_release_and_back_loses_no_request(recipe, registry, tmp_path):
    """The program that `coldstart serve` runs, with its own Ray; it ends on SIGTERM."""
    file = tmp_path / "followed.yaml"
    file.write_text(dump_recipe(recipe))
    url = f"http://127.0.0.1:{recipe.serving.port}"
    command = [sys.executable, "-m", "workloads.serve", "--recipe", str(file)]
    seen: dict[str, list[float]] = {}
    log = tmp_path / "serve.log"
    program = Server(command, f"{url}/readyz", log, {"RAY_ADDRESS": ""})
    program.start()
    try:
        with load(url, 4, seen) as failures:
            seconds_until("followed-scorer/1", seen)
            write_scorer(recipe.run_dir, "joint")
            register_run(recipe, registry)
            promote(registry, 2, UNGATED)
            forward = seconds_until("followed-scorer/2", seen)
            frozen, joint = (seen[f"followed-scorer/{version}"] for version in (1, 2))
            assert frozen != pytest.approx(joint, abs=1e-4)
            rollback(registry, reason="try")
            time.sleep(2 * recipe.serving.poll_interval_s)
            back = seconds_until("followed-scorer/1", seen)
            assert seen["followed-scorer/1"] == pytest.approx(frozen, abs=1e-6)
            time.sleep(1)
        assert failures == []
    finally:
        program.process.send_signal(signal.SIGTERM)
        program.process.wait(60)
    output = log.read_text()
    assert program.process.returncode == 0
    assert "SIGTERM received" not in output
    for step in ("starting Ray", "loading the release", "starting the gateway", f"ready at {url}", "stopping"):
        assert step in output
    print(f"promotion to traffic {forward:.1f} s, rollback to traffic {back:.1f} s")


class FakeServing:
    """Replaces Ray, MLflow and the deployment of `serve_forever`, and calls `event` once the server is up."""

    def __init__(self, monkeypatch, event) -> None:
        self.closed: list[str] = []
        monkeypatch.setattr(serve, "ray_cluster", lambda *_, **__: self._closing("ray"))
        monkeypatch.setattr(serve, "limit_heap_growth", lambda: None)
        monkeypatch.setattr(serve, "check_port", lambda _: None)
        monkeypatch.setattr(serve, "check_tokens", lambda _: None)
        monkeypatch.setattr(serve, "Registry", lambda *_: None)
        monkeypatch.setattr(serve, "_resolve_alias", lambda *_: None)
        monkeypatch.setattr(serve, "_resolve_challenger", lambda _: None)
        monkeypatch.setattr(serve, "_deploy", lambda *_: "http://127.0.0.1:1")
        monkeypatch.setattr(serve, "shutdown", lambda: self.closed.append("serve"))
        monkeypatch.setattr(serve, "_follow_promotions", lambda *_: event())

    @contextmanager
    def _closing(self, name: str):
        try:
            yield
        finally:
            self.closed.append(name)

    def run(self, tmp_path, **options) -> int:
        """Runs `serve_forever` and returns its exit code."""
        try:
            serve.serve_forever(tiny_recipe(tmp_path, "signals"), **options)
        except SystemExit as stop:
            return stop.code
        return 0


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def interrupt() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise UserError("the release cannot be served")


@pytest.mark.parametrize(("event", "code"), [(terminate, 0), (interrupt, 130), (fail, 2)])
def test_the_exit_code_tells_why_the_server_ended(event, code, monkeypatch, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    fake = FakeServing(monkeypatch, event)
    assert fake.run(tmp_path) == code
    assert fake.closed == ["serve", "ray"]
    assert signal.getsignal(signal.SIGTERM) is before
    out, err = capsys.readouterr()
    for step in ("starting Ray", "loading the release signals@champion", "ready at http://127.0.0.1:1", "stopping"):
        assert step in err
    assert "serving signals@champion at http://127.0.0.1:1" in out


def test_json_output_is_one_line_and_no_progress(monkeypatch, tmp_path, capsys):
    fake = FakeServing(monkeypatch, terminate)
    assert fake.run(tmp_path, as_json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"project": "signals", "alias": "champion", "url": "http://127.0.0.1:1"}
    assert err == ""


def test_deployment_messages_are_printed_as_steps(capsys):
    with serve.shown_messages(serve.DEPLOYMENT, serve.Steps("serve")):
        logging.getLogger("coldstart.serving.deployment.application").info("starting the gateway of release %s", "r/1")
    logging.getLogger("coldstart.serving.deployment.application").info("not printed")
    err = capsys.readouterr().err
    assert "starting the gateway of release r/1" in err
    assert "not printed" not in err
