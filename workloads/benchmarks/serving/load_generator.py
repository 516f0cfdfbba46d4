"""Sends requests with Locust in a process of its own: reads a plan of cells and writes what the clients received.

python load_generator.py PLAN.json RESULT.json
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


class RequestLog:
    """The finished requests of one cell: end time, ms, status, Retry-After and release."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, int, str | None, str]] = []

    def __call__(self, response_time: float, response: Any, exception: Any, context: Any, **_: Any) -> None:
        """Handles Locust's `request` event."""
        status = getattr(response, "status_code", 0) or 0
        retry = response.headers.get("retry-after") if status == 429 else None
        text = response.text if status == 200 else ""
        release = text.rpartition('"release":"')[2].partition('"')[0]
        self.rows.append((time.monotonic(), response_time, status, retry, release))


def user(cell: dict[str, Any]) -> type[FastHttpUser]:
    """Returns a client class that sends the next request as soon as it has the response."""
    bodies = [json.dumps(body).encode() for body in json.loads(Path(cell["bodies"]).read_text())]

    class Client(FastHttpUser):
        host = cell["url"]
        wait_time = constant(0)
        network_timeout = connection_timeout = cell.get("timeout_s", 60.0)
        count = 0

        @task
        def ask(self) -> None:
            Client.count += 1
            headers = {"content-type": "application/json"}
            response = self.client.post("/v1/rank", data=bodies[Client.count % len(bodies)], headers=headers)
            if response.status_code == 429:
                gevent.sleep(float(response.headers.get("retry-after", 0)))

    return Client


def cpu_seconds(roots: list[int]) -> float:
    """Returns the CPU seconds that these processes and their descendants have used."""
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
    """Runs one cell: its clients for its seconds, after a warm-up that is not counted."""
    environment = Environment(user_classes=[user(cell)])
    runner = environment.create_local_runner()
    log = RequestLog()
    for step in cell["steps"]:
        runner.start(step["clients"], spawn_rate=100)
        gevent.sleep(step.get("warm_s", 0))
        if not log.rows:
            environment.events.request.add_listener(log)
        step["began"], cpu = time.monotonic(), cpu_seconds(cell["pids"])
        gevent.sleep(step["seconds"])
        step["ended"], step["cpu_s"] = time.monotonic(), cpu_seconds(cell["pids"]) - cpu
    ended = time.monotonic()
    environment.events.request.remove_listener(log)
    runner.quit()
    runner.greenlet.join()
    return cell | {"rows": [row for row in log.rows if row[0] <= ended]}


def main() -> None:
    """Runs the plan."""
    plan, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps([run(cell) for cell in json.loads(plan.read_text())]))


if __name__ == "__main__":
    main()
