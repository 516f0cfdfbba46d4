"""Runs a method from recipe to served scores, as a program, and prints what it found as JSON.

The tests of `platform/README.md` start it with a copy of the library that has one method more.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from fastapi.testclient import TestClient

from coldstart.config import Recipe, load_recipe
from coldstart.config.runtime_env import set_ray_tmpdir
from coldstart.data.batches import rank_request, users_of
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.jobs import pipeline
from coldstart.metrics.clicks import sigmoid
from coldstart.registry import Registry, Release, read_release
from tests.serving.local import LocalModels, local_client

ROWS, PER_CALL = 1000, 50
TITLE = "published a second ago"


def served_rows(client: TestClient, recipe: Recipe) -> float:
    """Largest difference of served scores to those of the evaluation, over `ROWS` test rows."""
    dataset = Dataset.open(recipe.run_dir / "dataset")
    rows = ScoredRows.read(recipe.run_dir / "evaluation" / "scores")
    step = len(rows) // ROWS
    rows = rows.take(np.arange(len(rows)) % step == 0)
    offline, worst, count = sigmoid(rows.logits["release"]), 0.0, 0
    requests = _requests(dataset, rows.event)
    while part := list(islice(requests, PER_CALL)):
        answers = client.post("/v1/rank", json={"requests": part}).raise_for_status().json()["responses"]
        online = np.array([answer["scores"][0] for answer in answers])
        worst = max(worst, float(np.abs(online - offline[count : count + len(part)]).max()))
        count += len(part)
    assert count >= ROWS
    return worst


def _requests(dataset: Dataset, events: np.ndarray) -> Iterator[dict[str, Any]]:
    """Each event as the request that would have asked for its score."""
    sequences, ids = dataset.sequences, [None, *dataset.item_index]
    users, offsets = users_of(sequences, events), np.asarray(sequences.offsets)
    item, label, time = (np.asarray(getattr(sequences, name)) for name in ("item_idx", "label", "timestamp"))
    for event, user in zip(events.tolist(), users.tolist(), strict=True):
        past = np.arange(offsets[user], event)
        past = past[time[past] < time[event]]
        history = [{"item_id": ids[item[n]], "label": int(label[n]), "timestamp": int(time[n])} for n in past]
        yield {"history": history, "candidates": [{"item_id": ids[item[event]]}], "now": int(time[event])}


def published_in_history(client: TestClient, release: Release, recipe: Recipe) -> dict[str, float]:
    """Score of item 1 after a click on an item that is published now: before, after, and offline."""
    first = next(iter(Dataset.open(recipe.run_dir / "dataset").item_index))
    history = [{"item_id": "new", "label": 1, "timestamp": 10}]
    body = {"history": history, "candidates": [{"item_id": first}], "now": 100}
    before = client.post("/v1/rank", json=body).raise_for_status().json()["scores"][0]
    client.post("/v1/items", json={"item_id": "new", "title": TITLE}).raise_for_status()
    after = client.post("/v1/rank", json=body).raise_for_status().json()["scores"][0]
    models, table = LocalModels(release), ItemTable.open(release.items.path)
    row = models.encoder.encode([Content(TITLE)])
    items = ItemTable(
        {name: torch.cat([values, torch.from_numpy(row[name])]) for name, values in table.columns.items()}
    )
    batch = rank_request([0], [1], [10], [1], 100, history=models.scorer.max_history)
    known = batch.history_mask.any(1)
    batch = replace(batch, history_row=torch.where(known, len(table), 0))
    with torch.inference_mode():
        offline = float(torch.sigmoid(models.scorer(batch, ItemTable(models.adaptor(items.columns))))[0, 0])
    return {"before": before, "after": after, "offline": offline}


def main(recipe_file: Path, overrides: list[str], stores: Path) -> None:
    """Trains, evaluates and registers with a small local Ray, then serves without it."""
    recipe = load_recipe(recipe_file, overrides)
    set_ray_tmpdir()
    ray.init(address="local", num_cpus=5, include_dashboard=False, object_store_memory=100_000_000)
    try:
        result = pipeline.run(recipe)
    finally:
        ray.shutdown()
    release = read_release(Registry(recipe.tracking_uri, recipe.project), 1)
    client = local_client(release, stores)
    evaluation = json.loads((recipe.run_dir / "evaluation" / "evaluation.json").read_text())
    found = {
        "models": {kind: model["version"] for kind, model in result["models"].items()},
        "stages": list(result["stages"]),
        "evaluation": evaluation,
        "gap": served_rows(client, recipe),
        "published": published_in_history(client, release, recipe),
        "neighbors": len(client.get("/v1/items/new/neighbors?k=3").raise_for_status().json()["neighbors"]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3:], Path(sys.argv[2]))
