"""Champion and challenger on the very same rows: figures, paired differences over users and items, and who wins.

Legend: `n` rows, `u` users, `i` items.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.comparisons import paired
from coldstart.evaluation.intervals import corrected
from coldstart.evaluation.measured import Ranks, measure
from coldstart.evaluation.metrics import losses, sigmoid
from coldstart.evaluation.pages import p_value
from coldstart.evaluation.protocol import BY_ITEM, SERVED, Protocol
from coldstart.evaluation.resampling import Resampled
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.slices import slices
from coldstart.evaluation.summary import without_nan
from coldstart.evaluation.variants import CHALLENGER, CHAMPION

SIDES = (CHAMPION, CHALLENGER)
SHOWN = ("all", "cold", "warm")
DECIDES = "gauc_item"
"""What a verdict is about, as in the recipe's gates: plain GAUC also rewards noise in the slots."""


def challenge(rows: ScoredRows, settings: Evaluation, *, seed: int) -> dict[str, Any]:
    """Compares what two releases served on rows, ready for JSON: figures that are not defined are `None`.

    Args:
        rows: With logits of SIDES and of their contexts; `train_events` is 0 where both have no trained row.
        settings: Resamples and confidence.
        seed: Of the draws.

    Returns:
        `metrics` by side, slice and name; `differences`, challenger less champion, as `comparisons` has them with the
        slices of one metric corrected together; `winner`, a side or `None`; and the `verdict`, a sentence.
    """
    protocol = Protocol(SIDES, appeal=(), edges=(), top=settings.top, bins=settings.calibration_bins)
    measured = measure(rows, protocol)
    members = slices(rows.train_events, rows.age_s)
    metrics: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    families: dict[str, list[dict[str, Any]]] = {"gauc": [], DECIDES: [], "logloss": []}
    for name in SHOWN:
        ranks, loss = measured.ranks[name], _loss_ranks(rows, members[name])
        served, by_item = ([protocol.scores.index((way, side)) for side in SIDES] for way in (SERVED, BY_ITEM))
        ranked = Resampled(ranks, settings, seed)
        figures = {
            "gauc": (ranked, served),
            DECIDES: (ranked, by_item),
            "logloss": (Resampled(loss, settings, seed), [0, 1]),
        }
        for place, side in enumerate(SIDES):
            values = {metric: float(found.gauc[at[place]]) for metric, (found, at) in figures.items()}
            metrics[side][name] = {"rows": int(members[name].sum()), **values}
        for metric, (found, (champion, challenger)) in figures.items():
            values = {side: metrics[side][name][metric] for side in SIDES}
            difference = paired(found, challenger, champion, settings.confidence)
            families[metric].append({"slice": name, "metric": metric, **values, **difference})
    families = {metric: corrected(family) for metric, family in families.items()}
    winner, verdict = _judge(families[DECIDES], settings.confidence)
    differences = [entry for family in families.values() for entry in family]
    return dict(without_nan({"metrics": metrics, "differences": differences, "winner": winner, "verdict": verdict}))


def _loss_ranks(rows: ScoredRows, member: NDArray[np.bool_]) -> Ranks:
    """Log loss in the place of AUC: a mean over rows is a ratio of sums too, and an item pulls by its summed losses."""
    user, item, label = rows.user_idx[member], rows.item_idx[member], rows.label[member]
    loss = np.stack([losses(label, sigmoid(rows.logits[side][member])) for side in SIDES])
    weight, by_user = _added(user, loss)
    item_rows, by_item = _added(item, loss)
    undefined = np.full(len(SIDES), math.nan)
    return Ranks(weight, by_user / weight, item_rows, by_item, loss @ loss.T, undefined, undefined, left_out=0)


def _added(unit: NDArray[np.integer], loss: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows [units] and summed losses [2, units] of each user or item."""
    units, of = np.unique(unit, return_inverse=True)
    sums = [np.bincount(of, weights=values, minlength=len(units)) for values in loss]
    return np.bincount(of, minlength=len(units)).astype(np.float64), np.stack(sums)


def _judge(entries: Sequence[dict[str, Any]], confidence: float) -> tuple[str | None, str]:
    """The winner and why. A challenger that is worse on any slice does not win."""
    tested = [entry for entry in entries if math.isfinite(entry["p_holm"])]
    if not tested:
        if any(entry["delta"] == 0 for entry in entries):
            return None, "no difference: champion and challenger rank every row alike"
        return None, "nothing can be said: too few users have both a click and a skip on these rows"
    sure = [entry for entry in tested if entry["p_holm"] < 1 - confidence]
    worse = [entry for entry in sure if entry["delta"] < 0]
    if worse:
        return CHAMPION, f"champion stays: {_told(max(worse, key=lambda entry: -entry['delta']))}"
    if sure:
        return CHALLENGER, f"challenger wins: {_told(max(sure, key=lambda entry: entry['delta']))}"
    found = "; ".join(f"{_span(entry)}, {entry['mde']:.4f} would be found with 80 % power" for entry in tested)
    return None, f"no difference larger than the minimum detectable effect: challenger's item GAUC {found}"


def _told(entry: dict[str, Any]) -> str:
    return f"challenger's item GAUC {_span(entry)}"


def _span(entry: dict[str, Any]) -> str:
    ends = f"[{entry['low_both']:+.4f}, {entry['high_both']:+.4f}]"
    return f"on {entry['slice']} rows {entry['delta']:+.4f} {ends}, p {p_value(entry['p_holm'])}"
