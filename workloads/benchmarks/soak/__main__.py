"""Soaks a server in steady load while replicas are killed and releases are promoted, rolled back and aborted.

`python -m workloads.benchmarks.soak --minutes 30`; exit code 1 if a request failed, an answer was not that of the
release it names, the challenger was not aborted, or the memory of a gateway, a model or the server grew
faster than that of an idle replica.
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

from coldstart.client import Client, Retries
from coldstart.config import Recipe, UserError, dump_recipe, load_recipe, read_artifact
from coldstart.config.recipe import Paths
from coldstart.config.recipe import Registry as RegistrySettings
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.registry import Registry, promote, rollback
from workloads import pipeline
from workloads.benchmarks.soak import control
from workloads.benchmarks.soak.processes import OF_RAY, SETTLE_S, Family
from workloads.benchmarks.soak.releases import Request, draw_requests, expected, make_release, register
from workloads.benchmarks.soak.table import section
from workloads.console import CONSOLE
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
REQUESTS, CANDIDATES, NEW_ITEMS = 64, 32, 8
REMEMBERED = 10_000
PROMOTIONS, ROLLBACK, CHALLENGE = (0.03, 0.09, 0.15), 0.21, 0.27
"""When things happen, as shares of the run: early, since every one of them puts up new processes, whose memory is
watched for the rest of it. Replicas are killed all the time."""
VICTIMS = ("gateway", "ranker", "encoder", "adaptor")
_SAMPLE_S, _STARTS_WITHIN, _DEADLINE_S = 5.0, 300.0, 60.0
_PUBLISH_EVERY_S = 0.2
_POLL_S = 0.2
"""Often, for the same reason: an encoder alone holds a little more for its first 3,000 items, a server for as many
looks at the registry, and then no more; what grows for good grows the faster."""


@dataclass
class Soak:
    """One run.

    Attributes:
        recipe: With a run directory, a registry and a port of its own.
        registry: Where its releases are registered.
        log: What happened: seconds since the load began, and a sentence.
    """

    recipe: Recipe
    registry: Registry
    log: list[tuple[float, str]]
    began: float = 0.0

    @property
    def url(self) -> str:
        """Of the server."""
        return f"http://{self.recipe.serving.host}:{self.recipe.serving.port}"

    def note(self, sentence: str) -> None:
        """Logs what happened."""
        second = round(time.monotonic() - self.began, 1)
        self.log.append((second, sentence))
        CONSOLE.print(f"[dim]{second:7.1f} s[/]  {sentence}", soft_wrap=True)

    def promote(self, version: int, alias: str = "champion") -> None:
        """Moves an alias to a version."""
        promote(self.registry, "adaptor", version, self.recipe.registry, alias=alias, why="soak")
        self.note(f"adaptor {version} is {alias}")

    def roll_back(self) -> None:
        """Moves the champion alias back by one."""
        version = rollback(self.registry, "adaptor", why="soak").entry.versions["adaptor"]
        self.note(f"rolled back to adaptor {version}")


def prepare(base: Recipe, seed: int) -> tuple[Soak, dict[str, Any]]:
    """Makes five releases, promotes the first, and returns the plan of the load beside them."""
    work = base.run_dir / "soak"
    shutil.rmtree(work, ignore_errors=True)
    dataset = Dataset.open(base.run_dir / "dataset")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Five releases of five lineages share a name in the registry; none of the project's own is touched.
    recipe = base.model_copy(
        update={
            "paths": Paths(runs=work / "served"),
            "registry": RegistrySettings(gates=()),
            # What a gateway remembers is full before its memory is watched.
            "serving": base.serving.model_copy(
                update={
                    "port": port,
                    "poll_s": _POLL_S,
                    "watch": base.serving.watch.model_copy(update={"remembered_rows": REMEMBERED}),
                }
            ),
        }
    )
    work.mkdir(parents=True)
    (work / "recipe.yaml").write_text(dump_recipe(recipe))
    registry = Registry(recipe.tracking_uri, recipe.project)
    contents = _new_items(dataset)
    requests = draw_requests(dataset, requests=REQUESTS, candidates=CANDIDATES, new=list(contents), seed=seed)
    answers = {}
    for number in range(len(PROMOTIONS) + 2):
        made = recipe.model_copy(update={"paths": Paths(runs=work / f"release-{number + 1}")})
        make_release(base.run_dir, made.run_dir, seed=number, slow=number > len(PROMOTIONS))
        name = register(made, registry)
        kinds = expected(made.run_dir, requests, list(contents.values()))
        answers[name] = {kind: np.round(rows.astype(float), 8).tolist() for kind, rows in kinds.items()}
    plan = {
        "requests": [_sent(request) for request in requests],
        "items": [_published(item_id, content) for item_id, content in contents.items()],
        "publish_every_s": _PUBLISH_EVERY_S,
        "deadline_s": _DEADLINE_S,
        "expected": answers,
    }
    return Soak(recipe, registry, []), plan


def run(soak: Soak, plan: dict[str, Any], *, minutes: float, kill_every_s: float) -> dict[str, Any]:
    """Soaks for so long and returns what was found."""
    work = soak.recipe.paths.runs.parent
    seconds = 60 * minutes
    promote(soak.registry, "adaptor", 1, soak.recipe.registry, why="soak")
    with _server(soak, work) as server:
        family = Family(server.pid, settle_s=min(SETTLE_S, seconds / 2))
        control.start(family.ray_address())
        (work / "plan.json").write_text(json.dumps({"url": soak.url, **plan}))
        with _load(work) as load:
            soak.began = time.monotonic()
            todo = _timeline(soak, family, seconds, kill_every_s)
            sampled = 0.0
            while (now := time.monotonic() - soak.began) < seconds:
                if load.poll() is not None or server.poll() is not None:
                    raise UserError(f"the {'load' if load.poll() is not None else 'server'} ended early; see {work}")
                while todo and todo[0][0] <= now:
                    todo.pop(0)[1]()
                if now - sampled > _SAMPLE_S:
                    family.sample()
                    sampled = now
                time.sleep(0.2)
        aborted = _aborted(soak)
    found = json.loads((work / "load.json").read_text())
    growth = family.growth()
    idle = growth.get(control.NAME)
    memory = {role: asdict(one) | {"flat": one.flat_beside(idle)} for role, one in growth.items()}
    return {
        "minutes": minutes,
        "rate": plan["rate"],
        "kill_every_s": kill_every_s,
        **found,
        "memory": memory,
        "samples": family.samples(),
        "challenger": aborted,
        "log": soak.log,
    }


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """What must hold, and whether it does."""
    return {
        "no failed request": not result["failed"],
        "no answer of another release than it names": not result["wrong"],
        "every release answered": len(result["releases"]) >= len(PROMOTIONS) + 1,
        "challenger aborted": result["challenger"]["aborted"],
        "memory flat": all(
            one["flat"] for role, one in result["memory"].items() if role not in (*OF_RAY, control.CALLER)
        ),
    }


def _timeline(
    soak: Soak, family: Family, seconds: float, kill_every_s: float
) -> list[tuple[float, Callable[[], None]]]:
    victims = cycle(VICTIMS)

    def kill() -> None:
        # Rankers within the gateways have no replicas; and a replica that is just being put up may not be there yet.
        for role in islice(victims, len(VICTIMS)):
            if pid := family.kill_one(role):
                soak.note(f"kill -9 of a {role} replica (process {pid})")
                if role == "gateway":
                    # The idle lose who calls them as often as the models do.
                    family.kill_one(control.CALLER)
                return
        soak.note("no replica to kill")

    todo: list[tuple[float, Callable[[], None]]] = [
        (share * seconds, lambda version=number + 2: soak.promote(version)) for number, share in enumerate(PROMOTIONS)
    ]
    todo += [(ROLLBACK * seconds, soak.roll_back)]
    todo += [(CHALLENGE * seconds, lambda: soak.promote(len(PROMOTIONS) + 2, "challenger"))]
    # Between the promotions, so that a replica also dies in the midst of a swap.
    todo += [((count + 0.5) * kill_every_s, kill) for count in range(int(seconds / kill_every_s))]
    return sorted(todo, key=lambda one: one[0])


def _aborted(soak: Soak) -> dict[str, Any]:
    with Client(soak.url, retries=Retries(most=50)) as client:
        release = client.release().model_dump()
    challenger = release.get("challenger") or {}
    return {"aborted": challenger.get("state") == "aborted", "reason": challenger.get("reason"), "release": release}


def _new_items(dataset: Dataset) -> dict[str, Content]:
    cold = np.flatnonzero(dataset.train_counts[1:] == 0)[:NEW_ITEMS]
    rows = dataset.items().take(cold).to_pylist()
    return {f"soak-{row['item_id']}": Content(row["title"], row["text"], row["picture"]) for row in rows}


def _sent(request: Request) -> dict[str, Any]:
    events = zip(*request.history, strict=True)
    return {
        "user_id": request.user_id,
        "history": [{"item_id": item, "label": label, "timestamp": at} for item, label, at in events],
        "candidates": [{"item_id": item} for item in request.items],
        "now": request.now,
    }


def _published(item_id: str, content: Content) -> dict[str, Any]:
    picture = None if content.picture is None else base64.b64encode(content.picture).decode()
    return {"item_id": item_id, "title": content.title, "text": content.text, "picture": picture}


@contextmanager
def _server(soak: Soak, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "workloads.serve", "--recipe", str(work / "recipe.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (work / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + _STARTS_WITHIN
        while True:
            try:
                if httpx.get(f"{soak.url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the server does not come up; see {work / 'serve.log'}")
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
    command = [sys.executable, "-m", "workloads.benchmarks.soak.load", str(work / "plan.json"), str(work / "load.json")]
    with (work / "load.log").open("wb") as log:
        load = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield load
    finally:
        load.terminate()
        load.wait(2 * _DEADLINE_S)


def main() -> None:
    """Soaks as a program."""
    parser = recipe_arguments("benchmarks.soak", __doc__)
    parser.set_defaults(recipe="demo")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--rate", type=float, default=20.0, help="rankings per second (default: 20)")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between two kills (default: 60)")
    parser.add_argument("--record", action="store_true", help=f"add the result to {RESULTS.name}")
    arguments = parser.parse_args()
    CONSOLE.stderr = arguments.json
    with readable_errors():
        base = load_recipe(find_recipe(arguments.recipe), arguments.set)
        with ray_cluster(base, arguments.address):
            pipeline.bring_up_to_date(base)
        read_artifact(base.run_dir / "adaptor", "adaptor")
        soak, plan = prepare(base, base.seed)
        result = run(
            soak,
            {"rate": arguments.rate, **plan},
            minutes=arguments.minutes,
            kill_every_s=arguments.kill_every,
        )
    result |= {"arguments": sys.argv[1:], "verdicts": verdicts(result)}
    (soak.recipe.paths.runs.parent / "result.json").write_text(json.dumps(result, indent=2))
    text = section(result)
    if arguments.record:
        RESULTS.write_text(f"{RESULTS.read_text()}\n{text}")
    print(json.dumps(result) if arguments.json else text)
    raise SystemExit(0 if all(result["verdicts"].values()) else 1)


if __name__ == "__main__":
    main()
