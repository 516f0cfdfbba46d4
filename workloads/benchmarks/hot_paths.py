"""Measures two hot paths of a finished run, and for each its upper bound in the same minute on the same machine.

- coarse: items per second of the training step with batches from Ray Data; bound: the same step on one fixed batch.
- rank: median time of `POST /v1/rank` with one client; bound: the forward pass alone on the same request.

    make bench
"""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import torch
from rich.table import Table

from coldstart.config import Recipe, load_recipe, read_artifact
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.batches import rank_request
from coldstart.data.dataset import Dataset
from coldstart.data.streaming import stream_items
from coldstart.encoders import Encoder
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments
from coldstart.jobs.serving.serve import serving
from coldstart.methods.base import SCORER
from coldstart.modules.info_nce import Targets, info_nce
from coldstart.rankers import load_ranker
from workloads.benchmarks.results_page import commit

_STEPS = 30
_REQUESTS = 300
_CANDIDATES = 32
_HISTORY = 50


def coarse_step(recipe: Recipe) -> tuple[float, float]:
    """Items per second of one rank, with batches from Ray Data and with one fixed batch."""
    dataset = Dataset.open(recipe.run_dir / "dataset")
    encoder = Encoder.load(recipe.run_dir / "encoder", "cpu").train()
    rows = load_ranker(recipe.run_dir / "ranker").id_rows()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-5)
    size = recipe.method.coarse.batch // recipe.cluster.workers
    order = np.random.default_rng(recipe.seed).integers(1, dataset.num_items + 1, size * (_STEPS + 1))
    stream = stream_items(dataset.artifact.path, order, encoder.prepare, size)

    def step(batch: dict[str, Any]) -> None:
        arrays = dict(batch)
        item_idx = torch.tensor(arrays.pop("item_idx"))
        coarse, _ = encoder(encoder.inputs(arrays, "cpu"))
        targets = Targets(rows[item_idx], item_idx)
        loss = info_nce(coarse, targets, targets, temperature=recipe.method.coarse.temperature).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    fixed = next(stream)
    step(fixed)
    streamed_s = _seconds(lambda: [step(next(stream)) for _ in range(_STEPS)])
    fixed_s = _seconds(lambda: [step(fixed) for _ in range(_STEPS)])
    return size * _STEPS / streamed_s, size * _STEPS / fixed_s


def rank_request_time(recipe: Recipe) -> tuple[float, float]:
    """Median milliseconds of a rank request over HTTP, and of the forward pass it needs."""
    dataset = Dataset.open(recipe.run_dir / "dataset")
    ranker = load_ranker(recipe.run_dir / "ranker")
    ids = dataset.items(["item_id"])["item_id"].to_pylist()
    rng = np.random.default_rng(recipe.seed)
    history, candidates = rng.integers(1, len(ids) + 1, _HISTORY), rng.integers(1, len(ids) + 1, _CANDIDATES)
    label, at = rng.integers(0, 2, _HISTORY), 1_700_000_000 + np.arange(_HISTORY)
    now = int(at[-1]) + 60
    body = {
        "history": [
            {"item_id": ids[item - 1], "label": int(clicked), "timestamp": int(when)}
            for item, clicked, when in zip(history, label, at, strict=True)
        ],
        "candidates": [{"item_id": ids[item - 1]} for item in candidates],
        "now": now,
    }

    @torch.inference_mode()
    def forward() -> None:
        batch = rank_request(history, label, at, candidates, now, history=recipe.ranker.max_history)
        torch.sigmoid(ranker(batch, ranker.id_slots(batch.target_idx)))

    forward_s = statistics.median(_seconds(forward) for _ in range(_REQUESTS))
    with serving(recipe) as url, httpx.Client(base_url=url, timeout=60) as client:

        def send() -> None:
            client.post("/v1/rank", json=body).raise_for_status()

        for _ in range(20):
            send()
        http_s = statistics.median(_seconds(send) for _ in range(_REQUESTS))
    return 1000 * http_s, 1000 * forward_s


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints a table to paste into results/data.md."""
    arguments = recipe_arguments("benchmarks.hot_paths", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        read_artifact(recipe.run_dir / SCORER, SCORER)
        torch.set_num_threads(1)
        with ray_cluster(recipe, arguments.address):
            streamed, fixed = coarse_step(recipe)
            http_ms, forward_ms = rank_request_time(recipe)
    where = f"{platform.machine()}, commit {commit()}"
    table = Table("path", "measured", "bound", "ratio", title=f"{datetime.now(UTC):%Y-%m-%d}, {where}")
    table.add_row(
        "coarse step, items/s", f"{streamed:.0f} Ray Data", f"{fixed:.0f} fixed batch", f"{streamed / fixed:.2f}"
    )
    table.add_row(
        "rank, ms p50", f"{http_ms:.1f} over HTTP", f"{forward_ms:.1f} forward pass", f"{http_ms / forward_ms:.1f}"
    )
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
