"""What the report says beyond how well: what the ID table asks for, what adaptor and attention do, who gains.

Every part looks at a sample of fixed size, so that its cost does not grow with the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.alignment import Adaptor, fine_proxies
from coldstart.alignment.kept_out import split_mature
from coldstart.config import Recipe
from coldstart.data.batches import UserWindows
from coldstart.data.contract import TEST, TRAIN
from coldstart.data.dataset import Dataset
from coldstart.encoders.proxies import SHOWN, read_partial
from coldstart.evaluation.adaptor_figures import adaptor_figures
from coldstart.evaluation.gaze import gaze
from coldstart.evaluation.id_space import id_space
from coldstart.evaluation.item_gains import ItemGains, item_gains
from coldstart.evaluation.modalities import WHOLE, modalities
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.scoring import score_rows
from coldstart.evaluation.variants import BASELINE
from coldstart.rankers import Ranker
from workloads.scoring import WINDOWS_PER_PASS, evaluated_windows

JUDGED = "fine"
LOOKED_AT = (BASELINE, "id", JUDGED)
MOST_ITEMS = 3_000
"""Mature items whose rows are predicted."""
MOST_COLD = 4_000
"""Cold items that the adaptor's figures are taken over."""
MOST_ROWS = 20_000
"""Rows that are scored again with one modality left out."""
LISTED = 6
"""Items shown of those that gain most, and of those that lose most."""


@dataclass(frozen=True)
class Diagnosed:
    """Models and data of one run.

    Attributes:
        recipe: Of the run.
        dataset: Prepared.
        ranker: In eval mode.
        adaptor: In eval mode.
        coarse: [V, d] coarse proxies.
        states: [V, G, D] layer states.
        tables: Variant -> slot table [V, d].
        mature: [V] items with a well-trained ID row.
        proxies: Directory of the proxies artifact.
    """

    recipe: Recipe
    dataset: Dataset
    ranker: Ranker
    adaptor: Adaptor
    coarse: Tensor
    states: Tensor
    tables: Mapping[str, Tensor]
    mature: NDArray[np.bool_]
    proxies: Path


def diagnose(run: Diagnosed, rows: ScoredRows) -> tuple[dict[str, Any], ItemGains]:
    """Everything the report's diagnosis says, and the items that gain, for their pictures.

    Args:
        run: What was evaluated.
        rows: Scored rows, or a sample of users' rows.

    Returns:
        `id_space`, `adaptor`, `gaze`, `gains` and `modalities`, as the modules of these names tell; None where there is
        nothing to measure.
    """
    rows = rows.take(rows.train_events == 0)
    gains = item_gains(rows.item_idx, rows.label, rows.logits[BASELINE], rows.logits[JUDGED])
    found = {
        "id_space": _id_space(run),
        "adaptor": _adaptor(run),
        "gaze": _gaze(run),
        "gains": _gains(gains, run.dataset),
        "modalities": _modalities(run, rows),
    }
    return found, gains


def _id_space(run: Diagnosed) -> dict[str, Any] | None:
    """On a sample of mature items in which those that coarse alignment kept out come first."""
    heldout = split_mature(np.flatnonzero(run.mature), run.recipe.coarse, seed=run.recipe.seed)[1]
    others = np.setdiff1d(np.flatnonzero(run.mature), heldout)
    others = np.random.default_rng(run.recipe.seed).permutation(others)
    items = np.sort(np.concatenate([heldout, others])[:MOST_ITEMS])
    clicks = np.asarray(run.dataset.items(["num_train_clicks"])["num_train_clicks"], np.int64)
    return id_space(
        run.states[items].flatten(1).numpy(),
        run.ranker.id_rows()[items].numpy(),
        clicks[items - 1],
        run.dataset.train_counts[items].astype(np.int64),
        np.isin(items, heldout),
        run.recipe.evaluation,
        seed=run.recipe.seed,
    )


def _adaptor(run: Diagnosed) -> dict[str, Any] | None:
    cold = np.flatnonzero(run.dataset.train_counts[1:] == 0) + 1
    if not len(cold):
        return None
    chosen = np.random.default_rng(run.recipe.seed).permutation(cold)[:MOST_COLD]
    ids = run.tables["id"][torch.from_numpy(np.flatnonzero(run.mature))]
    if not len(ids):
        return None
    return adaptor_figures(run.adaptor, run.coarse[chosen], run.states[chosen], ids)


def _gaze(run: Diagnosed) -> dict[str, Any]:
    windows = evaluated_windows(run.dataset, run.recipe.ranker.history)
    chosen = np.random.default_rng(run.recipe.seed).permutation(len(windows))[:WINDOWS_PER_PASS]
    among = {"cold": torch.from_numpy(run.dataset.train_counts == 0), "mature": torch.from_numpy(run.mature)}
    tables = {name: run.tables[name] for name in LOOKED_AT}
    return gaze(run.ranker, [windows.batch(chosen)], tables, among, base=BASELINE)


def _gains(gains: ItemGains, dataset: Dataset) -> dict[str, Any]:
    ids = dataset.items(["item_id"])["item_id"]
    first, last = _ends(gains)

    def listed(places: NDArray[np.int64]) -> list[dict[str, Any]]:
        columns = ("rows", "observed", "before", "after", "gain")
        return [
            {"item_id": ids[int(gains.item[at]) - 1].as_py()}
            | {name: getattr(gains, name)[at].item() for name in columns}
            for at in places
        ]

    return {
        "items": len(gains.item),
        "left_out": gains.left_out,
        "better": gains.better,
        "mean": gains.mean,
        "most": listed(first),
        "least": listed(last),
    }


def listed_items(gains: ItemGains) -> NDArray[np.int64]:
    """Indices of the items that are listed: those that gain most, then those that lose most."""
    return gains.item[np.concatenate(_ends(gains))]


def _ends(gains: ItemGains) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of those that gain most, and of those that lose most, worst first; none gains there and loses here."""
    places = np.arange(len(gains.item))
    return places[gains.gain > 0][:LISTED], places[gains.gain < 0][::-1][:LISTED]


def _modalities(run: Diagnosed, rows: ScoredRows) -> dict[str, Any] | None:
    groups = run.states.shape[1]
    partial = {shown: read_partial(run.proxies, shown, groups=groups) for shown in SHOWN}
    tables = {}
    for shown, read in partial.items():
        if read is None:
            return None
        items, coarse, states = (part.copy() for part in read)
        tables[shown] = torch.zeros_like(run.tables[JUDGED])
        tables[shown][items] = fine_proxies(run.adaptor, torch.from_numpy(coarse), torch.from_numpy(states))
    rows = rows.take(np.isin(rows.item_idx, items))
    step = -(-len(rows) // MOST_ROWS)
    rows = rows.take(rows.user_idx % max(step, 1) == 0)
    if not len(rows):
        return None
    sequences = run.dataset.sequences
    # Only the sampled rows are targets; that they are TEST says so to the windows.
    split = np.full(len(sequences.split), TRAIN, sequences.split.dtype)
    split[rows.event] = TEST
    windows = UserWindows(replace(sequences, split=split), history=run.recipe.ranker.history, splits=[TEST])
    event, logits = score_rows(run.ranker, windows.sweep(windows_per_step=WINDOWS_PER_PASS), tables)
    order = np.argsort(event)
    assert np.array_equal(event[order], rows.event), "rows come in the order of events"
    return modalities(
        rows.user_idx,
        rows.label,
        rows.logits[BASELINE],
        {WHOLE: rows.logits[JUDGED], **{shown: values[order] for shown, values in logits.items()}},
        run.recipe.evaluation,
        seed=run.recipe.seed,
    )
