"""The clients, with Locust in a process of its own: reads a plan of cells, writes what each of them saw.

python load.py PLAN.json RESULT.json
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import psutil
from locust import FastHttpUser, constant, task
from locust.env import Environment


class Seen:
    """Requests of one cell, as they end."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, int, str | None, str]] = []

    def __call__(self, response_time: float, response: Any, exception: Any, context: Any, **_: Any) -> None:
        """Listens to Locust."""
        status = getattr(response, "status_code", 0) or 0
        retry = response.headers.get("retry-after") if status == 429 else None
        text = response.text if status == 200 else ""
        release = text.rpartition('"release":"')[2].partition('"')[0]
        self.rows.append((time.monotonic(), response_time, status, retry, release))


def user(cell: dict[str, Any]) -> type[FastHttpUser]:
    """A client that asks again as soon as it is answered."""
    bodies = [json.dumps(body).encode() for body in json.loads(Path(cell["bodies"]).read_text())]

    class Client(FastHttpUser):
        host = cell["url"]
        wait_time = constant(0)
        network_timeout = connection_timeout = cell.get("timeout_s", 60.0)
        turn = 0

        @task
        def ask(self) -> None:
            Client.turn += 1
            headers = {"content-type": "application/json"}
            answer = self.client.post("/v1/rank", data=bodies[Client.turn % len(bodies)], headers=headers)
            if answer.status_code == 429:
                gevent.sleep(float(answer.headers.get("retry-after", 0)))

    return Client


def cpu_seconds(roots: list[int]) -> float:
    """Of processes and their children, so far."""
    total = 0.0
    for root in roots:
        for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


def run(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell: so many clients for so many seconds, after a warm-up that is not counted."""
    environment = Environment(user_classes=[user(cell)])
    runner = environment.create_local_runner()
    seen = Seen()
    for step in cell["steps"]:
        runner.start(step["clients"], spawn_rate=100)
        gevent.sleep(step.get("warm_s", 0))
        if not seen.rows:
            environment.events.request.add_listener(seen)
        step["began"], cpu = time.monotonic(), cpu_seconds(cell["pids"])
        gevent.sleep(step["seconds"])
        step["ended"], step["cpu_s"] = time.monotonic(), cpu_seconds(cell["pids"]) - cpu
    ended = time.monotonic()
    environment.events.request.remove_listener(seen)
    runner.quit()
    runner.greenlet.join()
    return cell | {"rows": [row for row in seen.rows if row[0] <= ended]}


def main() -> None:
    """Runs the plan."""
    plan, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps([run(cell) for cell in json.loads(plan.read_text())]))


if __name__ == "__main__":
    main()
