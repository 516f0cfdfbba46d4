"""Compares the champion and challenger releases on the same rows: metrics, paired differences and a verdict.

Legend: `n` rows, `u` users, `i` items.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.inference.intervals import holm_corrected
from coldstart.evaluation.inference.pairwise_tests import paired_difference
from coldstart.evaluation.inference.two_way_bootstrap import TwoWayBootstrap
from coldstart.evaluation.protocol.partial_metrics import GroupRanking, compute_metrics
from coldstart.evaluation.protocol.protocol import MINUS_OOV, RAW, EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import slices
from coldstart.evaluation.protocol.variants import CHALLENGER, CHAMPION
from coldstart.evaluation.report.html_pages import p_value
from coldstart.metrics.clicks import losses, sigmoid
from coldstart.metrics.undefined import nan_to_none

ALIASES = (CHAMPION, CHALLENGER)
SHOWN = ("all", "cold", "warm")
DECISION_METRIC = "gauc_item"
"""The metric that decides, as in the recipe's gates. Plain GAUC also rewards noise in the slot vectors."""


def compare_releases(rows: ScoredRows, settings: Evaluation, *, seed: int) -> dict[str, Any]:
    """Compares the scores of two releases, ready for JSON: undefined values are `None`.

    Args:
        rows: With logits of SIDES and of their contexts; `train_events` is 0 where both have no trained row.
        settings: Resamples and confidence.
        seed: Of the resampling.

    Returns:
        `metrics[alias][slice][metric]`; `differences`, challenger minus champion, with the keys of `pairwise_tests`,
        the slices of one metric corrected together; `winner`, an alias or `None`; and `verdict`, a sentence.
    """
    protocol = EvaluationProtocol(
        ALIASES, item_effect=(), edges=(), top_k=settings.top_k, bins=settings.calibration_bins
    )
    merged = compute_metrics(rows, protocol)
    members = slices(rows.train_events, rows.age_s)
    metrics: dict[str, dict[str, Any]] = {alias: {} for alias in ALIASES}
    families: dict[str, list[dict[str, Any]]] = {"gauc": [], DECISION_METRIC: [], "logloss": []}
    for name in SHOWN:
        ranks, loss = merged.ranks[name], _loss_ranks(rows, members[name])
        raw, minus_oov = ([protocol.scores.index((kind, alias)) for alias in ALIASES] for kind in (RAW, MINUS_OOV))
        ranked = TwoWayBootstrap(ranks, settings, seed)
        figures = {
            "gauc": (ranked, raw),
            DECISION_METRIC: (ranked, minus_oov),
            "logloss": (TwoWayBootstrap(loss, settings, seed), [0, 1]),
        }
        for place, alias in enumerate(ALIASES):
            values = {metric: float(found.gauc[at[place]]) for metric, (found, at) in figures.items()}
            metrics[alias][name] = {"rows": int(members[name].sum()), **values}
        for metric, (found, (champion, challenger)) in figures.items():
            values = {alias: metrics[alias][name][metric] for alias in ALIASES}
            difference = paired_difference(found, challenger, champion, settings.confidence)
            families[metric].append({"slice": name, "metric": metric, **values, **difference})
    families = {metric: holm_corrected(family) for metric, family in families.items()}
    winner, verdict = _verdict(families[DECISION_METRIC], settings.confidence)
    differences = [entry for family in families.values() for entry in family]
    return dict(nan_to_none({"metrics": metrics, "differences": differences, "winner": winner, "verdict": verdict}))


def _loss_ranks(rows: ScoredRows, member: NDArray[np.bool_]) -> GroupRanking:
    """Log loss in place of AUC: a mean over rows is a ratio of sums too, and an item's gradient is its summed loss."""
    user, item, label = rows.user_idx[member], rows.item_idx[member], rows.label[member]
    loss = np.stack([losses(label, sigmoid(rows.logits[alias][member])) for alias in ALIASES])
    weight, by_user = _sums(user, loss)
    item_rows, by_item = _sums(item, loss)
    undefined = np.full(len(ALIASES), math.nan)
    return GroupRanking(weight, by_user / weight, item_rows, by_item, loss @ loss.T, undefined, undefined, left_out=0)


def _sums(unit: NDArray[np.integer], loss: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number of rows [units] and summed losses [2, units] of each user or item."""
    units, of = np.unique(unit, return_inverse=True)
    sums = [np.bincount(of, weights=values, minlength=len(units)) for values in loss]
    return np.bincount(of, minlength=len(units)).astype(np.float64), np.stack(sums)


def _verdict(entries: Sequence[dict[str, Any]], confidence: float) -> tuple[str | None, str]:
    """The winner and the reason. A challenger that is worse on any slice does not win."""
    tested = [entry for entry in entries if math.isfinite(entry["p_holm"])]
    if not tested:
        if any(entry["delta"] == 0 for entry in entries):
            return None, "no difference: champion and challenger rank every row equally"
        return None, "undecided: too few users have both a click and a skip in these rows"
    significant = [entry for entry in tested if entry["p_holm"] < 1 - confidence]
    worse = [entry for entry in significant if entry["delta"] < 0]
    if worse:
        return CHAMPION, f"champion stays: {_result(max(worse, key=lambda entry: -entry['delta']))}"
    if significant:
        return CHALLENGER, f"challenger wins: {_result(max(significant, key=lambda entry: entry['delta']))}"
    results = "; ".join(f"{_span(entry)}, {entry['mde']:.4f} is detected with 80 % power" for entry in tested)
    return None, f"no difference larger than the minimum detectable effect: challenger's item GAUC {results}"


def _result(entry: dict[str, Any]) -> str:
    return f"challenger's item GAUC {_span(entry)}"


def _span(entry: dict[str, Any]) -> str:
    ends = f"[{entry['low_both']:+.4f}, {entry['high_both']:+.4f}]"
    return f"on {entry['slice']} rows {entry['delta']:+.4f} {ends}, p {p_value(entry['p_holm'])}"
