"""Publication to rankable: items with pictures are published over HTTP and asked for until their proxy ranks them.

`python -m workloads.benchmarks.freshness` deploys the tiny MLLM with random weights, publishes and prints quantiles;
beside them what a lookup costs that finds the store as it was.
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

from coldstart.serving.proxy_store import ProxyStore
from workloads.benchmarks.serving import made
from workloads.benchmarks.serving.__main__ import served


def publish_and_rank(url: str, number: int, picture: bytes) -> tuple[float, float]:
    """Milliseconds until the publication was acknowledged, and until a gateway ranked by it."""
    name = f"fresh-{time.time_ns()}-{number}"
    began = time.perf_counter()
    with httpx.Client(base_url=url, timeout=60) as client:
        form = {"item_id": name, "title": f"a new film, number {number}"}
        client.post("/v1/items", data=form, files={"picture": ("p.png", picture)}).raise_for_status()
        acknowledged = time.perf_counter()
        while True:
            answer = client.post("/v1/rank", json={"candidates": [{"item_id": name}]}).raise_for_status()
            if answer.json()["vectors"] == ["fine"]:
                return 1000 * (acknowledged - began), 1000 * (time.perf_counter() - began)


def lookups(store: ProxyStore, candidates: int) -> float:
    """Microseconds per candidate, the check for news included."""
    names = [(made.IDS[-1 - at], made.ITEMS - at) for at in range(candidates)]
    times = []
    for _ in range(500):
        began = time.perf_counter()
        store.catch_up()
        for name, index in names:
            store.withdrawn(name)
            store.proxy(name, index)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6 / candidates


def main() -> None:
    """Runs the benchmark as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = made.make(Path(directory)).run_dir
        figures: dict[str, Any] = {}
        file = io.BytesIO()
        noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        picture = file.getvalue()
        with served("ours", run) as contender:
            contender.hear()
            for clients in given.clients:
                with ThreadPoolExecutor(clients) as pool:
                    work = [pool.submit(publish_and_rank, contender.url, at, picture) for at in range(given.items)]
                    times = np.array([one.result() for one in work][clients:])
                for what, column in zip(("acknowledged", "rankable"), times.T, strict=True):
                    quantiles = np.percentile(column, [50, 90, 99]).round(1).tolist()
                    figures[f"{what} ms, {clients} clients"] = dict(zip(("p50", "p90", "p99"), quantiles, strict=True))
        store = ProxyStore(run.parent / "store-ours", made.release(run).adaptor.fingerprint)
        figures["us per candidate"] = {str(count): round(lookups(store, count), 2) for count in (32, 200)}
        store.close()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
