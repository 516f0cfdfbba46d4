"""Loads a server steadily while replicas are killed and releases are promoted, rolled back and aborted.

`python -m workloads.benchmarks.soak --minutes 30` exits with code 1 if a request failed, a response differs from the
offline scores of the release that it names, the challenger was not aborted, or the memory of a gateway, a model or the
server grew faster than that of an idle replica.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from coldstart.client import Client, RetryPolicy
from coldstart.config import Recipe, UserError, dump_recipe, load_recipe, read_artifact
from coldstart.config.recipe import Paths
from coldstart.config.recipe import Registry as RegistrySettings
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.jobs import pipeline
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments
from coldstart.methods.base import SCORER
from coldstart.registry import Registry, promote, rollback
from workloads.benchmarks.results_page import RESULTS, add_section
from workloads.benchmarks.soak import idle_replicas
from workloads.benchmarks.soak.process_tree import RAY_ROLES, SETTLE_S, ProcessTree
from workloads.benchmarks.soak.releases import Request, draw_requests, expected_scores, make_release, register_release
from workloads.benchmarks.soak.report import section

PAGE = RESULTS / "soak.md"
REQUESTS, CANDIDATES, NEW_ITEMS = 64, 32, 8
REMEMBERED = 10_000
PROMOTIONS, ROLLBACK, CHALLENGE = (0.03, 0.09, 0.15), 0.21, 0.27
"""Times of these actions as fractions of the run. They are early because each starts new processes, whose memory is
measured until the end. Replicas are killed all the time."""
KILLED_ROLES = ("gateway", "scorer", "encoder", "adaptor")
_SAMPLE_S, _START_SECONDS, _DEADLINE_S = 5.0, 300.0, 60.0
_DECISION_S = 600.0
_PUBLISH_EVERY_S = 0.2
_POLL_S = 0.2
"""Short intervals, because an encoder grows during its first 3,000 items and a server during as many registry polls;
both are through with this before their memory is measured, and real growth shows faster."""


@dataclass
class Soak:
    """One run.

    Attributes:
        recipe: Recipe with its own run directory, registry and port.
        registry: Registry of its releases.
        log: Seconds since the load started and a sentence, for each action.
        started: `time.monotonic()` at the start of the load.
    """

    recipe: Recipe
    registry: Registry
    log: list[tuple[float, str]]
    started: float = 0.0

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://{self.recipe.serving.host}:{self.recipe.serving.port}"

    def note(self, sentence: str) -> None:
        """Logs an action."""
        second = round(time.monotonic() - self.started, 1)
        self.log.append((second, sentence))
        CONSOLE.print(f"[dim]{second:7.1f} s[/]  {sentence}", soft_wrap=True)

    def promote(self, version: int, alias: str = "champion") -> None:
        """Moves an alias to a version."""
        promote(self.registry, version, self.recipe.registry, alias=alias, reason="soak")
        self.note(f"scorer {version} is {alias}")

    def roll_back(self) -> None:
        """Moves the champion alias back by one."""
        version = rollback(self.registry, reason="soak").event.versions[SCORER]
        self.note(f"rolled back to scorer {version}")


def prepare(base: Recipe, seed: int) -> tuple[Soak, dict[str, Any]]:
    """Makes five releases and returns the soak and the plan of its load."""
    work = base.run_dir / "soak"
    shutil.rmtree(work, ignore_errors=True)
    dataset = Dataset.open(base.run_dir / "dataset")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A registry of its own: the five releases have five lineages under one name.
    recipe = base.model_copy(
        update={
            "paths": Paths(runs=work / "served"),
            "registry": RegistrySettings(gates=()),
            # A small feedback buffer, so that it is full before the gateway's memory is measured.
            "serving": base.serving.model_copy(
                update={
                    "port": port,
                    "poll_interval_s": _POLL_S,
                    "stats": base.serving.stats.model_copy(update={"feedback_buffer_rows": REMEMBERED}),
                }
            ),
        }
    )
    work.mkdir(parents=True)
    (work / "recipe.yaml").write_text(dump_recipe(recipe))
    registry = Registry(recipe.tracking_uri, recipe.project)
    contents = _new_items(dataset)
    requests = draw_requests(dataset, requests=REQUESTS, candidates=CANDIDATES, new=list(contents), seed=seed)
    expected = {}
    for number in range(len(PROMOTIONS) + 2):
        release = recipe.model_copy(update={"paths": Paths(runs=work / f"release-{number + 1}")})
        make_release(base.run_dir, release.run_dir, seed=number, slow=number > len(PROMOTIONS))
        name = register_release(release, registry)
        scores = expected_scores(release.run_dir, requests, list(contents.values()))
        expected[name] = {source: np.round(rows.astype(float), 8).tolist() for source, rows in scores.items()}
    plan = {
        "requests": [_rank_body(request) for request in requests],
        "items": [_publish_body(item_id, content) for item_id, content in contents.items()],
        "publish_every_s": _PUBLISH_EVERY_S,
        "deadline_s": _DEADLINE_S,
        "expected": expected,
    }
    return Soak(recipe, registry, []), plan


def run(soak: Soak, plan: dict[str, Any], *, minutes: float, kill_every_s: float) -> dict[str, Any]:
    """Runs the soak for so many minutes and returns its result."""
    work = soak.recipe.paths.runs.parent
    seconds = 60 * minutes
    promote(soak.registry, 1, soak.recipe.registry, reason="soak")
    with _server(soak, work) as server:
        processes = ProcessTree(server.pid, settle_s=min(SETTLE_S, seconds / 2))
        idle_replicas.start(processes.ray_address())
        (work / "plan.json").write_text(json.dumps({"url": soak.url, **plan}))
        with _load(work) as load:
            soak.started = time.monotonic()
            actions = _timeline(soak, processes, seconds, kill_every_s)
            sampled = 0.0
            while (now := time.monotonic() - soak.started) < seconds:
                if load.poll() is not None or server.poll() is not None:
                    ended = "load" if load.poll() is not None else "serve"
                    raise UserError(f"the {ended} process ended early; read its log {work / ended}.log")
                while actions and actions[0][0] <= now:
                    actions.pop(0)[1]()
                if now - sampled > _SAMPLE_S:
                    processes.sample()
                    sampled = now
                time.sleep(0.2)
            challenger = _await_decision(soak, load)
    responses = json.loads((work / "load.json").read_text())
    growth = processes.growth()
    idle = growth.get(idle_replicas.NAME)
    memory = {role: asdict(one) | {"flat": one.is_flat(idle)} for role, one in growth.items()}
    return {
        "minutes": minutes,
        "rate": plan["rate"],
        "kill_every_s": kill_every_s,
        **responses,
        "memory": memory,
        "samples": processes.samples(),
        "challenger": challenger,
        "log": soak.log,
    }


def checks(result: dict[str, Any]) -> dict[str, bool]:
    """Returns the checks and whether each passed."""
    return {
        "no failed request": not result["failed"],
        "every score is that of the named release": not result["wrong"],
        "every release responded": len(result["releases"]) >= len(PROMOTIONS) + 1,
        "challenger aborted": result["challenger"]["aborted"],
        "memory flat": all(
            one["flat"] for role, one in result["memory"].items() if role not in (*RAY_ROLES, idle_replicas.CALLER)
        ),
    }


def _timeline(
    soak: Soak, processes: ProcessTree, seconds: float, kill_every_s: float
) -> list[tuple[float, Callable[[], None]]]:
    roles = cycle(KILLED_ROLES)

    def kill() -> None:
        # Rankers in the gateways have no replicas of their own, and a replica that is starting may not exist yet.
        for role in islice(roles, len(KILLED_ROLES)):
            if pid := processes.kill_one(role):
                soak.note(f"kill -9 of a {role} replica (process {pid})")
                if role == "gateway":
                    # The idle replicas must lose their callers as often as the models do.
                    processes.kill_one(idle_replicas.CALLER)
                return
        soak.note("no replica to kill")

    actions: list[tuple[float, Callable[[], None]]] = [
        (part * seconds, lambda version=number + 2: soak.promote(version)) for number, part in enumerate(PROMOTIONS)
    ]
    actions += [(ROLLBACK * seconds, soak.roll_back)]
    actions += [(CHALLENGE * seconds, lambda: soak.promote(len(PROMOTIONS) + 2, "challenger"))]
    # Between the promotions, so that a replica also dies during a swap.
    actions += [((count + 0.5) * kill_every_s, kill) for count in range(int(seconds / kill_every_s))]
    return sorted(actions, key=lambda action: action[0])


def _await_decision(soak: Soak, load: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The challenger's state; the load continues until it is aborted: a busy machine serves fewer requests a minute."""
    deadline = time.monotonic() + _DECISION_S
    while not (state := _challenger_state(soak))["aborted"] and load.poll() is None and time.monotonic() < deadline:
        time.sleep(1)
    return state


def _challenger_state(soak: Soak) -> dict[str, Any]:
    with Client(soak.url, retries=RetryPolicy(max_retries=50)) as client:
        release = client.release().model_dump()
    challenger = release.get("challenger") or {}
    return {"aborted": challenger.get("state") == "aborted", "reason": challenger.get("reason"), "release": release}


def _new_items(dataset: Dataset) -> dict[str, Content]:
    rows = dataset.items().take(dataset.cold_items[:NEW_ITEMS] - 1).to_pylist()
    return {f"soak-{row['item_id']}": Content(row["title"], row["text"], row["image"]) for row in rows}


def _rank_body(request: Request) -> dict[str, Any]:
    events = zip(*request.history, strict=True)
    return {
        "user_id": request.user_id,
        "history": [{"item_id": item, "label": label, "timestamp": at} for item, label, at in events],
        "candidates": [{"item_id": item} for item in request.items],
        "now": request.now,
    }


def _publish_body(item_id: str, content: Content) -> dict[str, Any]:
    image = None if content.image is None else base64.b64encode(content.image).decode()
    return {"item_id": item_id, "title": content.title, "text": content.text, "image": image}


@contextmanager
def _server(soak: Soak, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "workloads.serve", "--recipe", str(work / "recipe.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (work / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if httpx.get(f"{soak.url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the server does not become ready; read its log {work / 'serve.log'}")
            time.sleep(0.5)
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextmanager
def _load(work: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "workloads.benchmarks.soak.load_generator",
        str(work / "plan.json"),
        str(work / "load.json"),
    ]
    with (work / "load.log").open("wb") as log:
        load = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield load
    finally:
        load.terminate()
        load.wait(2 * _DEADLINE_S)


def main() -> None:
    """Runs the soak as a program."""
    parser = recipe_arguments("benchmarks.soak", __doc__)
    parser.set_defaults(recipe="demo")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the soak in minutes (default: 30)")
    parser.add_argument("--rate", type=float, default=20.0, help="rankings per second (default: 20)")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between two kills (default: 60)")
    parser.add_argument("--record", action="store_true", help=f"add the result to {PAGE.name}")
    arguments = parser.parse_args()
    CONSOLE.stderr = arguments.json
    with readable_errors():
        base = load_recipe(find_recipe(arguments.recipe), arguments.set)
        with ray_cluster(base, arguments.address):
            pipeline.run_outdated_stages(base)
        read_artifact(base.run_dir / SCORER, SCORER)
        soak, plan = prepare(base, base.seed)
        result = run(
            soak,
            {"rate": arguments.rate, **plan},
            minutes=arguments.minutes,
            kill_every_s=arguments.kill_every,
        )
    result |= {"arguments": sys.argv[1:], "checks": checks(result)}
    (soak.recipe.paths.runs.parent / "result.json").write_text(json.dumps(result, indent=2))
    text = section(result)
    if arguments.record:
        add_section(PAGE, text)
    print(json.dumps(result) if arguments.json else text)
    raise SystemExit(0 if all(result["checks"].values()) else 1)


if __name__ == "__main__":
    main()
