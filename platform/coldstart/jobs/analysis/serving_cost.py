"""What a contender costs in serving: to score a candidate, to make a published item rankable, and to keep its row."""

import timeit
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from coldstart.config import Recipe, read_artifact
from coldstart.data.batches import TARGET_FIELDS, UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST
from coldstart.methods.available import find_method
from coldstart.methods.base import ItemEncoder, adapt
from coldstart.methods.baselines.contenders import Contender

CANDIDATES, TIMED = 200, 7


def serving_cost(contender: Contender, encoders: Sequence[ItemEncoder], dataset: Dataset) -> dict[str, float]:
    """Costs on one thread, each the best of `TIMED`.

    Args:
        contender: Trained.
        encoders: Of its method; those that its adaptor does not read are not timed.
        dataset: Has test rows, and the item that is published.

    Returns:
        `us_per_candidate`, microseconds to score one of `CANDIDATES` for one user; `ms_per_item`, milliseconds to
        encode and adapt one item; `bytes_per_item`, which the scorer reads.
    """
    windows = UserWindows(dataset.sequences, history=contender.scorer.max_history, splits=[TEST], targets=CANDIDATES)
    batch = windows.batch([int(np.argmax(windows.weights))])
    repeats = -(-CANDIDATES // batch.target_idx.shape[1])
    batch = replace(batch, **{name: torch.cat([getattr(batch, name)] * repeats, dim=1) for name in TARGET_FIELDS})
    read = [one for one in encoders if one.outputs.keys() & contender.adaptor.inputs]
    published = dataset.contents(np.array([1]))

    # Text vectors of a catalog without text are zeros.
    missing = {
        name: torch.zeros(1, *spec.shape, dtype=getattr(torch, spec.dtype))
        for name, spec in contender.adaptor.inputs.items()
    }

    def publish() -> None:
        columns = {name: torch.from_numpy(values) for one in read for name, values in one.encode(published).items()}
        adapt(contender.adaptor, ItemTable(missing | columns))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        score_s = min(timeit.repeat(lambda: contender.scorer(batch, contender.items), number=1, repeat=TIMED))
        publish_s = min(timeit.repeat(publish, number=1, repeat=TIMED)) if read else 0.0
    torch.set_num_threads(threads)
    row = sum(values[0].numel() * values.element_size() for values in contender.items.columns.values())
    return {
        "us_per_candidate": round(score_s / batch.target_idx.shape[1] * 1e6, 2),
        "ms_per_item": round(publish_s * 1e3, 2),
        "bytes_per_item": row,
    }


def method_encoder(recipe: Recipe) -> ItemEncoder:
    """The encoder of a method's run."""
    kinds = find_method(recipe.method.name).encoder_kinds
    artifacts = [read_artifact(recipe.run_dir / kind, kind, verify=False) for kind in kinds]
    fingerprints = tuple(artifact.fingerprint for artifact in artifacts)
    return _load_encoder(recipe.method.name, recipe.run_dir.absolute(), fingerprints)


@lru_cache(maxsize=1)
def _load_encoder(method: str, run_dir: Path, fingerprints: tuple[str, ...]) -> ItemEncoder:
    """Cached between the trials of a process, which often have the same encoder; `fingerprints` are its artifacts'."""
    found = find_method(method)
    return found.load_encoder({kind: run_dir / kind for kind in found.encoder_kinds}, torch.device("cpu"))
