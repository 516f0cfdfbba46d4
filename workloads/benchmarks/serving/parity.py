"""Compares served scores with the offline scores of the release."""

from pathlib import Path

import httpx
import numpy as np
import torch

from coldstart.alignment import load_adaptor
from coldstart.data.batches import rank_request
from coldstart.encoders import read_proxies
from coldstart.rankers import load_ranker
from workloads.benchmarks.serving import fixtures


def max_score_difference(url: str, run: Path, *, rows: int) -> float:
    """Returns the largest difference between a served score and the offline score of the same row."""
    rng = np.random.default_rng(23)
    ranker, adaptor = load_ranker(run / "ranker"), load_adaptor(run / "adaptor")
    with torch.inference_mode():
        coarse, states = read_proxies(run / "proxies", fixtures.ITEMS, groups=len(fixtures.GROUPS))
        fine = adaptor(torch.from_numpy(coarse), torch.from_numpy(states))
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
            batch = rank_request(past, labels, times, targets, 1080, history=ranker.max_history)
            with torch.inference_mode():
                cold = (batch.target_idx > fixtures.TRAINED).unsqueeze(-1)
                slots = torch.where(cold, fine[batch.target_idx], ranker.id_slots(batch.target_idx))
                offline = torch.sigmoid(ranker(batch, slots))[0].numpy()
            max_difference = max(max_difference, float(np.abs(np.array(served) - offline).max()))
    return max_difference
