"""The variants with which IDProxy is evaluated, and what its report measures.

Variants are proxies of each stage in the item slot, and a regression to compare with.

Legend: `V` vocabulary (items + 1, row 0 is OOV), `d` ID width.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import Recipe
from coldstart.config.recipe import settings_of
from coldstart.config.recipe.method import RELEASE
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import (
    ITEM_TABLE,
    Diagnostics,
    Finding,
    Method,
    Parts,
    Variant,
    adapt,
    load_slot_scorer,
)
from coldstart.methods.baselines.content_to_id_regression import best_content_to_id_regression
from coldstart.methods.idproxy.adaptor import Adaptor, fine_proxies, load_adaptor
from coldstart.methods.idproxy.adaptor_stats import adaptor_stats, adaptor_text
from coldstart.methods.idproxy.align_fine import adaptor_kind
from coldstart.methods.idproxy.config import Settings
from coldstart.methods.idproxy.holdout import split_holdout
from coldstart.methods.idproxy.scorers import COARSE, STATES
from coldstart.rankers import Ranker, load_ranker
from coldstart.rankers.scorer import slot_table
from coldstart.training.cold_calibration import calibrate_table

MAX_COLD = 4_000
"""Cold items in the statistics of the adaptor."""


def variants(method: Method, recipe: Recipe, dataset: Dataset, parts: Parts) -> list[Variant]:
    """The variants of a run.

    Args:
        method: Loads the served scorer.
        recipe: Of the run.
        dataset: Of the run.
        parts: Kind -> directory of the run's artifacts.
    """
    settings = settings_of(recipe, Settings)
    ranker, items = load_ranker(parts["ranker"]), ItemTable.open(parts[ITEM_TABLE])
    adaptor = load_adaptor(parts[adaptor_kind(settings)])
    mature = dataset.mature(ranker.trained.numpy(), recipe.mature_events)
    slots = slot_tables(ranker, adaptor, items, mature, seed=recipe.seed)
    # Fine proxies are calibrated during alignment, so the variants they are compared with are calibrated too.
    for name in ("content_map", "coarse"):
        slots[name] = calibrate_table(slots[name], ranker, dataset.sequences)
    adapts = {"fine": partial(_fine_slots, adaptor)}
    found = [
        Variant(name, load_slot_scorer, slot_table(table), item_effect=True, adapt=adapts.get(name))
        for name, table in slots.items()
    ]
    served = adapt(method.load_adaptor(parts), items)
    if settings.mode == "frozen":
        return [*found, Variant(RELEASE, method.load_scorer, served)]
    joint = (Variant(name, method.load_scorer, served, own_model=True, item_effect=True) for name in ("joint", RELEASE))
    return [*found, *joint]


def _fine_slots(adaptor: Adaptor, items: ItemTable) -> ItemTable:
    return slot_table(fine_proxies(adaptor, items))


def diagnostics(recipe: Recipe, dataset: Dataset, parts: Parts) -> Diagnostics:
    """How the layer states predict ID rows, how proxies compare with them, and what the adaptor's gate does.

    Args:
        recipe: Of the run.
        dataset: Of the run.
        parts: Kind -> directory of the run's artifacts.
    """
    settings = settings_of(recipe, Settings)
    ranker, items = load_ranker(parts["ranker"]), ItemTable.open(parts[ITEM_TABLE])
    mature = np.flatnonzero(dataset.mature(ranker.trained.numpy(), recipe.mature_events))
    cold = np.random.default_rng(recipe.seed).permutation(dataset.cold_items)[:MAX_COLD]
    findings = {}
    if len(cold) and len(mature):
        content = items.gather(torch.from_numpy(cold))
        with torch.no_grad():
            ids = ranker.id_slots(torch.from_numpy(mature)).float()
        adaptor = load_adaptor(parts[adaptor_kind(settings)])
        stats = adaptor_stats(adaptor, content[COARSE], content[STATES], ids)
        findings["adaptor"] = Finding(stats, adaptor_text(stats))
    return Diagnostics(
        content=items.columns[STATES],
        held_out=split_holdout(mature, settings.coarse, seed=recipe.seed)[1],
        slots=("fine", "coarse"),
        findings=findings,
    )


def slot_tables(
    ranker: Ranker, adaptor: Adaptor, items: ItemTable, mature: NDArray[np.bool_], *, seed: int
) -> dict[str, Tensor]:
    """Variant -> slot table `[V, d]` of the variants that the frozen ranker scores.

    Coarse proxies have unit length, ID rows do not. One common factor, the mean length of mature ID rows, scales the
    proxies to the range of the ranker without adding any item popularity.

    Args:
        ranker: Has the ID rows.
        adaptor: Computes fine proxies.
        items: The encoder's columns.
        mature: [V] items with a well-trained ID row.
        seed: Of the split that chooses the regression.
    """
    with torch.no_grad():
        ids = ranker.id_slots(torch.arange(len(items)))
    states = items.columns["states"]
    mapped = best_content_to_id_regression(states, ranker.id_rows(), mature, seed=seed)
    lengths = ids[torch.from_numpy(mature)].norm(dim=-1)
    scale = lengths.mean() if len(lengths) else torch.tensor(1.0)
    tables = {"content_map": mapped, "coarse": items.columns["coarse"] * scale, "fine": fine_proxies(adaptor, items)}
    return {name: torch.cat([ids[:1], table[1:]]).float() for name, table in tables.items()}
