"""The ablation: every way of scoring a cold item on the same rows, over seeds, and which differences are real.

Seeds share their rows, or each has its own (a split of its own); within a seed all variants score the same ones.

Legend: `n` rows, `S` seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.intervals import corrected
from coldstart.evaluation.metrics import auc, logloss, reliability, sigmoid
from coldstart.evaluation.protocol import DIGITS
from coldstart.evaluation.runs import RankedUsers
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.seeds import Crossed
from coldstart.evaluation.slices import slices
from coldstart.evaluation.summary import without_nan
from coldstart.evaluation.variants import BASELINE, CEILINGS, ORACLES, TRUTHS

Among = tuple[ScoredRows, NDArray[np.bool_]]
"""Rows and which of them are meant."""

CONTEXT = "_context"
"""Ending of the scores of an item of which nothing is known, on the same rows."""
PROXIES = ("fine", "joint")
AGAINST: dict[str, tuple[str, ...]] = {
    "ridge_map": ("coarse", *PROXIES),
    "mlp_map": ("coarse", *PROXIES),
    "appeal": PROXIES,
    "content_feature": (*PROXIES, "joint_plain"),
    "content_slots": ("joint",),
    "coarse": PROXIES,
    "fine": ("joint",),
    "joint_plain": ("joint",),
}
"""Opponent -> what is compared with it; beside these, everything is compared with OOV."""


def ablation(
    rows: Mapping[int, ScoredRows], settings: Evaluation, *, seed: int, own_splits: bool = False
) -> dict[str, Any]:
    """Puts the seeds together, ready for JSON: figures that are not defined are `None`.

    Args:
        rows: Seed -> rows, with `logits` of every variant and, but for true probabilities, of `<variant>` + CONTEXT,
            and `appeal` where it is known.
        settings: Intervals.
        seed: Of the resampling.
        own_splits: Whether every seed has rows and users of its own; otherwise they are the same.

    Returns:
        `metrics[variant][slice]` of `gauc` and `gauc_item` (value, low, high, spread, by_seed), and of `auc`, `logloss`
        and `ece` (value, spread, by_seed); on cold rows `gap_closed[variant]` and `gap_closed_item[variant]` as shares
        of the `ceiling`'s; `appeal_share[variant]`, how much of the item gain is the same for all users; and
        `comparisons` with their intervals over users and seeds.
    """
    first = next(iter(rows.values()))
    variants = [name for name in first.logits if not name.endswith(CONTEXT)]
    found: dict[str, Any] = {
        "seeds": list(rows),
        "own_splits": own_splits,
        "variants": variants,
        "metrics": {name: {} for name in variants},
        "comparisons": [],
        "ceiling": next((name for name in CEILINGS if name in variants), None),
        "confidence": settings.confidence,
        "resamples": settings.bootstrap,
    }
    members = [slices(each.train_events, each.age_s) for each in rows.values()]
    for place in members[0]:
        among = [(each, member[place]) for each, member in zip(rows.values(), members, strict=True)]
        crossed_by = partial(_crossed, among, settings=settings, seed=seed, nested=own_splits)
        for name in variants:
            found["metrics"][name][place] = _plain(among, name, settings.calibration_bins)
        for metric, ways in (("gauc", _served), ("gauc_item", _by_item)):
            crossed = crossed_by([ways(each, variants) for each in rows.values()])
            for at, name in enumerate(variants):
                found["metrics"][name][place][metric] = crossed.figures(at)
            found["comparisons"] += _compared(crossed, variants, place, metric)
            if place == "cold":
                closed = "gap_closed" if metric == "gauc" else "gap_closed_item"
                found[closed] = _closed(crossed, variants, found["ceiling"])
        if place == "cold":
            found["appeal_share"] = _appeal(rows, crossed_by)
    return dict(without_nan(found))


def _served(rows: ScoredRows, variants: Sequence[str]) -> dict[str, NDArray[np.floating]]:
    return {name: rows.logits[name] for name in variants}


def _by_item(rows: ScoredRows, variants: Sequence[str]) -> dict[str, NDArray[np.floating]]:
    """What a slot adds to the score of an unknown item in the same context; true probabilities as they are."""
    return {
        name: np.round(rows.logits[name] - (0 if name in TRUTHS else rows.logits[name + CONTEXT]), DIGITS)
        for name in variants
    }


def _crossed(
    among: Sequence[Among],
    scores: Sequence[Mapping[str, NDArray[np.floating]]],
    *,
    settings: Evaluation,
    seed: int,
    nested: bool,
) -> Crossed:
    users = [RankedUsers.of(*each, score) for each, score in zip(among, scores, strict=True)]
    return Crossed(users, confidence=settings.confidence, resamples=settings.bootstrap, seed=seed, nested=nested)


def _plain(among: Sequence[Among], name: str, bins: int) -> dict[str, Any]:
    figures: dict[str, list[float]] = {"auc": [], "logloss": [], "ece": []}
    for each, member in among:
        label, logit = each.label[member], each.logits[name][member]
        if len(label):
            figures["auc"].append(auc(label, logit))
            figures["logloss"].append(logloss(label, sigmoid(logit)))
            figures["ece"].append(reliability(label, sigmoid(logit), bins=bins).error)
    return {
        metric: {"value": float(np.mean(values)) if values else None, "by_seed": values}
        for metric, values in figures.items()
    }


def _compared(crossed: Crossed, variants: Sequence[str], place: str, metric: str) -> list[dict[str, Any]]:
    pairs = {BASELINE: tuple(name for name in variants if name not in (BASELINE, *ORACLES)), **AGAINST}
    return [
        entry
        for against, compared in pairs.items()
        for entry in corrected(
            [
                {"variant": name, "against": against, "slice": place, "metric": metric}
                | crossed.test(variants.index(name), variants.index(against))
                for name in compared
                if {name, against} <= set(variants)
            ]
        )
    ]


def _closed(crossed: Crossed, variants: Sequence[str], ceiling: str | None) -> dict[str, Any]:
    if ceiling is None:
        return {}
    base = variants.index(BASELINE)
    whole = (variants.index(ceiling), base)
    return {name: crossed.share((at, base), whole) for at, name in enumerate(variants) if at != base}


def _appeal(rows: Mapping[int, ScoredRows], crossed_by: Callable[..., Crossed]) -> dict[str, Any]:
    """By variant, the share of the gain in item GAUC that a score of the item alone has."""
    first = next(iter(rows.values()))
    names = [name for name in first.appeal if name != BASELINE]
    scores = []
    for each in rows.values():
        alone = {f"{name} alone": np.round(each.appeal[name], DIGITS) for name in names}
        scores.append(_by_item(each, [BASELINE, *names]) | alone)
    crossed = crossed_by(scores)
    many = len(names)
    return {name: crossed.share((at + many, 0), (at, 0)) for at, name in enumerate(names, start=1)}
