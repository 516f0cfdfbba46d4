"""A comparison of methods: all ways of scoring cold items on the same rows, over seeds, with tests of differences.

Seeds share their rows, or each has its own split. Within a seed, all variants score the same rows.

Legend: `n` rows, `S` seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.compare.evaluated_runs import UserAucs
from coldstart.evaluation.compare.seed_aggregation import SeedUserBootstrap
from coldstart.evaluation.inference.intervals import holm_corrected
from coldstart.evaluation.protocol.protocol import DIGITS
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import slices
from coldstart.evaluation.protocol.variants import BASELINE, GROUND_TRUTH, OOV_SUFFIX, ORACLES, UPPER_BOUNDS
from coldstart.metrics.clicks import auc, logloss, reliability, sigmoid
from coldstart.metrics.undefined import nan_to_none

SelectedRows = tuple[ScoredRows, NDArray[np.bool_]]
"""Rows, and a mask of those that are used."""


def compare_methods(
    rows: Mapping[int, ScoredRows],
    settings: Evaluation,
    *,
    methods: Sequence[str],
    seed: int,
    own_splits: bool = False,
) -> dict[str, Any]:
    """Aggregates the seeds, ready for JSON: undefined values are `None`.

    Args:
        rows: Seed -> rows, with `logits` of every variant and (except for true probabilities) of `<variant>` +
            OOV_SUFFIX, and `item_effect` of the variants that have it.
        settings: Resamples and confidence.
        methods: Variants that are methods; the others but the oracles are baselines. Every variant is compared with
            OOV, every method with every baseline and with the methods before it.
        seed: Of the resampling.
        own_splits: Whether every seed has its own rows and users; otherwise all share them.

    Returns:
        `metrics[variant][slice]` of `gauc` and `gauc_item` (value, low, high, spread, by_seed), and of `auc`, `logloss`
        and `ece` (value, spread, by_seed); on cold rows `gap_closed[variant]` and `gap_closed_item[variant]` as shares
        of the `upper_bound`'s; `item_effect_share[variant]`, the share of the gain that is the same for all users; and
        `comparisons` with their intervals over users and seeds.
    """
    first = next(iter(rows.values()))
    variants = [name for name in first.logits if not name.endswith(OOV_SUFFIX)]
    found: dict[str, Any] = {
        "seeds": list(rows),
        "own_splits": own_splits,
        "variants": variants,
        "metrics": {name: {} for name in variants},
        "comparisons": [],
        "upper_bound": next((name for name in UPPER_BOUNDS if name in variants), None),
        "confidence": settings.confidence,
        "resamples": settings.num_resamples,
    }
    members = [slices(each.train_events, each.age_s) for each in rows.values()]
    for slice_name in members[0]:
        selected = [(each, member[slice_name]) for each, member in zip(rows.values(), members, strict=True)]
        bootstrap = partial(_bootstrap, selected, settings=settings, seed=seed, nested=own_splits)
        for name in variants:
            found["metrics"][name][slice_name] = _metrics_without_interval(selected, name, settings.calibration_bins)
        for metric, scores_of in (("gauc", _raw_scores), ("gauc_item", _minus_oov)):
            samples = bootstrap([scores_of(each, variants) for each in rows.values()])
            for at, name in enumerate(variants):
                found["metrics"][name][slice_name][metric] = samples.stats(at)
            found["comparisons"] += _comparisons(samples, variants, methods, slice_name, metric)
            if slice_name == "cold":
                closed = "gap_closed" if metric == "gauc" else "gap_closed_item"
                found[closed] = _gap_closed(samples, variants, found["upper_bound"])
        if slice_name == "cold":
            found["item_effect_share"] = _item_effect_share(rows, bootstrap)
    return dict(nan_to_none(found))


def _raw_scores(rows: ScoredRows, variants: Sequence[str]) -> dict[str, NDArray[np.floating]]:
    return {name: rows.logits[name] for name in variants}


def _minus_oov(rows: ScoredRows, variants: Sequence[str]) -> dict[str, NDArray[np.floating]]:
    """Logits minus those of the OOV row in the same context; true probabilities unchanged."""
    return {
        name: np.round(rows.logits[name] - (0 if name in GROUND_TRUTH else rows.logits[name + OOV_SUFFIX]), DIGITS)
        for name in variants
    }


def _bootstrap(
    selected: Sequence[SelectedRows],
    scores: Sequence[Mapping[str, NDArray[np.floating]]],
    *,
    settings: Evaluation,
    seed: int,
    nested: bool,
) -> SeedUserBootstrap:
    users = [UserAucs.of(*each, score) for each, score in zip(selected, scores, strict=True)]
    return SeedUserBootstrap(
        users, confidence=settings.confidence, resamples=settings.num_resamples, seed=seed, nested=nested
    )


def _metrics_without_interval(selected: Sequence[SelectedRows], name: str, bins: int) -> dict[str, Any]:
    figures: dict[str, list[float]] = {"auc": [], "logloss": [], "ece": []}
    for each, member in selected:
        label, logit = each.label[member], each.logits[name][member]
        if len(label):
            figures["auc"].append(auc(label, logit))
            figures["logloss"].append(logloss(label, sigmoid(logit)))
            figures["ece"].append(reliability(label, sigmoid(logit), bins=bins).error)
    return {
        metric: {"value": float(np.mean(values)) if values else None, "by_seed": values}
        for metric, values in figures.items()
    }


def _comparisons(
    samples: SeedUserBootstrap, variants: Sequence[str], methods: Sequence[str], slice_name: str, metric: str
) -> list[dict[str, Any]]:
    real = [name for name in variants if name not in ORACLES]
    pairs = {BASELINE: [name for name in real if name != BASELINE]}
    for at, name in enumerate(real):
        if name != BASELINE:
            others = real[at + 1 :] if name in methods else real
            pairs[name] = [other for other in others if other in methods]
    return [
        entry
        for against, compared in pairs.items()
        for entry in holm_corrected(
            [
                {"variant": name, "against": against, "slice": slice_name, "metric": metric}
                | samples.test(variants.index(name), variants.index(against))
                for name in compared
            ]
        )
    ]


def _gap_closed(samples: SeedUserBootstrap, variants: Sequence[str], upper_bound: str | None) -> dict[str, Any]:
    if upper_bound is None:
        return {}
    base = variants.index(BASELINE)
    whole = (variants.index(upper_bound), base)
    return {name: samples.share((at, base), whole) for at, name in enumerate(variants) if at != base}


def _item_effect_share(rows: Mapping[int, ScoredRows], bootstrap: Callable[..., SeedUserBootstrap]) -> dict[str, Any]:
    """By variant, the share of the gain in item GAUC that the item effect alone reaches."""
    first = next(iter(rows.values()))
    names = [name for name in first.item_effect if name != BASELINE]
    scores = []
    for each in rows.values():
        alone = {f"{name} alone": np.round(each.item_effect[name], DIGITS) for name in names}
        scores.append(_minus_oov(each, [BASELINE, *names]) | alone)
    samples = bootstrap(scores)
    count = len(names)
    return {name: samples.share((at + count, 0), (at, 0)) for at, name in enumerate(names, start=1)}
