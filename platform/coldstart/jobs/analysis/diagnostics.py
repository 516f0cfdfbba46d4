"""Diagnostics of the report, for every method: ID space, attention, item gains and modalities.

Every part uses a sample of fixed size, so that its cost does not grow with the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import Recipe
from coldstart.data.dataset import Dataset
from coldstart.evaluation.diagnostics.attention_stats import attention_stats
from coldstart.evaluation.diagnostics.id_space import id_space
from coldstart.evaluation.diagnostics.item_gains import ItemGains, item_gains
from coldstart.evaluation.diagnostics.modality_ablation import BOTH, modality_ablation
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.variants import BASELINE, OWN_ID
from coldstart.jobs.analysis.scoring import WINDOWS_PER_PASS, evaluated_windows
from coldstart.jobs.analysis.single_modality import ScoredItems, score_single_modalities
from coldstart.methods.base import ITEM_TABLE, Diagnostics, Parts, Variant
from coldstart.rankers import Ranker

MAX_MATURE = 3_000
"""Mature items whose ID rows are predicted."""
LISTED = 6
"""Items listed with the highest gains, and with the lowest."""


@dataclass(frozen=True)
class DiagnosticsInputs:
    """Models and data of one run.

    Attributes:
        recipe: Of the run.
        dataset: Of the run.
        ranker: In eval mode.
        parts: Kind -> directory of the run's artifacts.
        headline: The variant that the report is about.
        method: What can be measured of the method.
        tables: Variant -> slot table [V, d], of the variants that fill the ranker's item slots.
        mature: [V] items with a well-trained ID row.
    """

    recipe: Recipe
    dataset: Dataset
    ranker: Ranker
    parts: Parts
    headline: Variant
    method: Diagnostics
    tables: Mapping[str, Tensor]
    mature: NDArray[np.bool_]


def diagnose(run: DiagnosticsInputs, rows: ScoredRows) -> tuple[dict[str, Any], ItemGains]:
    """Computes the diagnostics, and the gains of single items.

    Args:
        run: Models and data.
        rows: Scored rows, of all users or of a sample.

    Returns:
        `id_space`, `attention`, `gains` and `modalities`, from the modules of the library with similar names, each
        None if there is nothing to measure, and the method's own findings; and the gains.
    """
    rows = rows.take(rows.train_events == 0)
    gains = item_gains(rows.item_idx, rows.label, rows.logits[BASELINE], rows.logits[run.headline.name])
    diagnostics = {
        "id_space": _id_space(run),
        "attention": _attention(run),
        "gains": _gains(gains, run.dataset),
        "modalities": _modalities(run, rows),
        **{name: finding.figures for name, finding in run.method.findings.items()},
    }
    return diagnostics, gains


def _id_space(run: DiagnosticsInputs) -> dict[str, Any] | None:
    """On a sample of mature items, which prefers those that no training of the method has seen."""
    if run.method.content is None:
        return None
    held_out = run.method.held_out
    others = np.setdiff1d(np.flatnonzero(run.mature), held_out)
    others = np.random.default_rng(run.recipe.seed).permutation(others)
    items = np.sort(np.concatenate([held_out, others])[:MAX_MATURE])
    clicks = np.asarray(run.dataset.items(["num_train_clicks"])["num_train_clicks"], np.int64)
    return id_space(
        run.method.content[items].flatten(1).numpy(),
        run.ranker.id_rows()[items].numpy(),
        clicks[items - 1],
        run.dataset.train_counts[items].astype(np.int64),
        np.isin(items, held_out),
        run.recipe.evaluation,
        seed=run.recipe.seed,
    )


def _attention(run: DiagnosticsInputs) -> dict[str, Any] | None:
    if not run.method.slots:
        return None
    windows = evaluated_windows(run.dataset, run.recipe.ranker.max_history)
    chosen = np.random.default_rng(run.recipe.seed).permutation(len(windows))[:WINDOWS_PER_PASS]
    groups = {"cold": torch.from_numpy(run.dataset.cold), "mature": torch.from_numpy(run.mature)}
    tables = {name: run.tables[name] for name in (BASELINE, OWN_ID, run.method.slots[0])}
    return attention_stats(run.ranker, [windows.batch(chosen)], tables, groups, base=BASELINE)


def _gains(gains: ItemGains, dataset: Dataset) -> dict[str, Any]:
    ids = dataset.items(["item_id"])["item_id"]
    best, worst = _extremes(gains)

    def listed(positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        columns = ("rows", "observed", "before", "after", "gain")
        return [
            {"item_id": ids[int(gains.item[at]) - 1].as_py()}
            | {name: getattr(gains, name)[at].item() for name in columns}
            for at in positions
        ]

    return {
        "items": len(gains.item),
        "left_out": gains.left_out,
        "improved_fraction": gains.improved_fraction,
        "mean": gains.mean,
        "best": listed(best),
        "worst": listed(worst),
    }


def listed_items(gains: ItemGains) -> NDArray[np.int64]:
    """Indices of the listed items: highest gains first, then lowest gains."""
    return gains.item[np.concatenate(_extremes(gains))]


def _extremes(gains: ItemGains) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the highest positive gains, and of the lowest negative gains, lowest first."""
    positions = np.arange(len(gains.item))
    return positions[gains.gain > 0][:LISTED], positions[gains.gain < 0][::-1][:LISTED]


def _modalities(run: DiagnosticsInputs, rows: ScoredRows) -> dict[str, Any] | None:
    variant, adapt = run.headline, run.headline.adapt
    if adapt is None:
        return None
    scored = ScoredItems(variant.load(run.parts), variant.items, lambda modality, items, encoded: adapt(encoded))
    found = score_single_modalities(
        scored, rows, run.dataset, run.parts[ITEM_TABLE], history=run.recipe.ranker.max_history
    )
    if found is None:
        return None
    rows, single = found
    return modality_ablation(
        rows.user_idx,
        rows.label,
        rows.logits[BASELINE],
        {BOTH: rows.logits[variant.name], **single},
        run.recipe.evaluation,
        seed=run.recipe.seed,
    )
