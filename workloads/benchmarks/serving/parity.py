"""Whether what is served is what the release scores offline."""

from pathlib import Path

import httpx
import numpy as np
import torch

from coldstart.alignment import load_adaptor
from coldstart.data.batches import rank_request
from coldstart.encoders import read_proxies
from coldstart.rankers import load_ranker
from workloads.benchmarks.serving import made


def worst(url: str, run: Path, *, rows: int) -> float:
    """Largest difference between a served score and the offline score of the same row, over random rows."""
    rng = np.random.default_rng(23)
    ranker, adaptor = load_ranker(run / "ranker"), load_adaptor(run / "adaptor")
    with torch.inference_mode():
        coarse, states = read_proxies(run / "proxies", made.ITEMS, groups=len(made.GROUPS))
        fine = adaptor(torch.from_numpy(coarse), torch.from_numpy(states))
    largest = 0.0
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(rows):
            seen = rng.integers(0, made.ITEMS + 1, rng.integers(0, 80))
            labels, times = rng.integers(0, 2, len(seen)), rng.integers(1000, 1100, len(seen))
            targets = rng.integers(0, made.ITEMS + 1, rng.integers(1, 12))
            names = ["nobody", *made.IDS]
            events = zip(seen, labels, times, strict=True)
            body = {
                "history": [{"item_id": names[i], "label": int(y), "timestamp": int(t)} for i, y, t in events],
                "candidates": [{"item_id": names[i]} for i in targets],
                "now": 1080,
            }
            served = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
            batch = rank_request(seen, labels, times, targets, 1080, history=ranker.history)
            with torch.inference_mode():
                cold = (batch.target_idx > made.TRAINED).unsqueeze(-1)
                slots = torch.where(cold, fine[batch.target_idx], ranker.id_slots(batch.target_idx))
                offline = torch.sigmoid(ranker(batch, slots))[0].numpy()
            largest = max(largest, float(np.abs(np.array(served) - offline).max()))
    return largest
