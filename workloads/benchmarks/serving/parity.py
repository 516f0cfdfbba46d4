"""Compares served scores with the offline scores of the release."""

from pathlib import Path

import httpx
import numpy as np
import torch

from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import find_method
from workloads.benchmarks.serving import fixtures


def max_score_difference(url: str, run: Path, *, rows: int) -> float:
    """Returns the largest difference between a served score and the offline score of the same row."""
    rng = np.random.default_rng(23)
    release = fixtures.release(run)
    method = find_method(release.method)
    scorer, adaptor = method.load_scorer(release.paths), method.load_adaptor(release.paths)
    with torch.inference_mode():
        items = ItemTable(adaptor(ItemTable.open(release.items.path).columns))
    max_difference = 0.0
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(rows):
            past = rng.integers(0, fixtures.ITEMS + 1, rng.integers(0, 80))
            labels, times = rng.integers(0, 2, len(past)), rng.integers(1000, 1100, len(past))
            targets = rng.integers(0, fixtures.ITEMS + 1, rng.integers(1, 12))
            ids = ["unknown", *fixtures.IDS]
            events = zip(past, labels, times, strict=True)
            body = {
                "history": [{"item_id": ids[i], "label": int(y), "timestamp": int(t)} for i, y, t in events],
                "candidates": [{"item_id": ids[i]} for i in targets],
                "now": 1080,
            }
            served = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
            batch = rank_request(past, labels, times, targets, 1080, history=scorer.max_history)
            with torch.inference_mode():
                offline = torch.sigmoid(scorer(batch, items))[0].numpy()
            max_difference = max(max_difference, float(np.abs(np.array(served) - offline).max()))
    return max_difference
