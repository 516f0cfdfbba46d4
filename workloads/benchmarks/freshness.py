"""Measures the time from the publication of an item until its row ranks it, and the cost of a row lookup.

`python -m workloads.benchmarks.freshness` deploys the tiny MLLM with random weights, publishes items with images over
HTTP, ranks each until its row is used, and prints quantiles.
"""

import argparse
import io
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from coldstart.config.recipe import Store
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.store_bootstrap import open_store
from workloads.benchmarks.serving import fixtures
from workloads.benchmarks.serving.__main__ import application


def publish_and_rank(url: str, number: int, image: bytes) -> tuple[float, float]:
    """Milliseconds until the publication is acknowledged, and until a gateway ranks with the row."""
    name = f"fresh-{time.time_ns()}-{number}"
    began = time.perf_counter()
    with httpx.Client(base_url=url, timeout=60) as client:
        form = {"item_id": name, "title": f"a new film, number {number}"}
        client.post("/v1/items", data=form, files={"image": ("p.png", image)}).raise_for_status()
        acknowledged = time.perf_counter()
        while True:
            answer = client.post("/v1/rank", json={"candidates": [{"item_id": name}]}).raise_for_status()
            if answer.json()["slot_sources"] == ["proxy"]:
                return 1000 * (acknowledged - began), 1000 * (time.perf_counter() - began)


def lookups(store: ItemStore, candidates: int) -> float:
    """Microseconds per candidate of a lookup in an unchanged store, including the check for changes."""
    names = [fixtures.IDS[-1 - at] for at in range(candidates)]
    index = fixtures.ITEMS - np.arange(candidates)
    times = []
    for _ in range(500):
        began = time.perf_counter()
        store.catch_up()
        store.find_rows(names, index)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6 / candidates


def main() -> None:
    """Runs the benchmark as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = fixtures.write_run(Path(directory)).run_dir
        results: dict[str, Any] = {}
        file = io.BytesIO()
        noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        image = file.getvalue()
        with application("coldstart", run) as server:
            server.read_line()
            for clients in arguments.clients:
                with ThreadPoolExecutor(clients) as pool:
                    work = [pool.submit(publish_and_rank, server.url, at, image) for at in range(arguments.items)]
                    times = np.array([one.result() for one in work][clients:])  # The first ones warm up.
                for event, column in zip(("acknowledged", "rankable"), times.T, strict=True):
                    quantiles = np.percentile(column, [50, 90, 99]).round(1).tolist()
                    results[f"{event} ms, {clients} clients"] = dict(zip(("p50", "p90", "p99"), quantiles, strict=True))
        store = open_store(fixtures.release(run), run.parent / "store-coldstart", Store())
        results["us per candidate"] = {str(count): round(lookups(store, count), 2) for count in (32, 200)}
        store.close()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
