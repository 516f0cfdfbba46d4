"""From what was measured to the summary: metrics, paired differences, the warm-up curve, origin of the gain.

Two GAUCs stand side by side. `gauc` is the standard one: rows ranked by the score as it is served. `gauc_item` ranks a
row by its logit less the logit of the OOV row in the same context. Candidates of one request share user and history, so
what depends on those alone never changes a ranking. Rows of a log come from different moments, and there it does: a
running click rate falls after a skip and rises after a click, and against the rest of a finite log that points the
wrong way (labels drawn without replacement). So the standard GAUC of the OOV row can lie far below one half, and every
variant seems to gain more than its slot adds; `gauc_item` is the careful reading, and the one that gains are split by.
True click probabilities read no past labels and are ranked as they are.
"""

import math
from typing import Any

import numpy as np

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.comparisons import comparisons
from coldstart.evaluation.intervals import Interval
from coldstart.evaluation.measured import LEVELS, Measured
from coldstart.evaluation.protocol import BY_APPEAL, BY_ITEM, SERVED, Protocol
from coldstart.evaluation.resampling import Resampled
from coldstart.evaluation.slices import SLICES
from coldstart.evaluation.variants import BASELINE, CEILINGS
from coldstart.evaluation.warm_up import warm_up

Summary = dict[str, Any]


def summarise(measured: Measured, settings: Evaluation, *, seed: int) -> Summary:
    """Everything the report shows, ready for JSON: figures that are not defined are `None`.

    Args:
        measured: Variants must hold `oov`.
        settings: Intervals.
        seed: Of the resampling.

    Returns:
        `metrics[variant][slice]`; `delta_vs_oov[variant][slice]` of `gauc` and `delta_item_vs_oov` of `gauc_item`; on
        the cold slice `gap_closed[variant]` and `gap_closed_item[variant]`, as a share of the `ceiling`'s, and
        `appeal_share[variant]`; `comparisons` and `warm_up` as the modules of these names tell;
        `calibration[variant][slice]` and `histogram` of click probabilities.
    """
    protocol = measured.protocol
    resampled = {name: Resampled(ranks, settings, seed) for name, ranks in measured.ranks.items()}
    others = [name for name in protocol.variants if name != BASELINE]
    deltas = {
        way: {name: {s: _figures("gauc", _above(protocol, resampled[s], way, name)) for s in SLICES} for name in others}
        for way in (SERVED, BY_ITEM)
    }
    rows = measured.rows[len(SLICES) :].astype(int).tolist()
    summary: Summary = {
        "metrics": {name: {s: _metrics(measured, resampled[s], name, s) for s in SLICES} for name in protocol.variants},
        "delta_vs_oov": deltas[SERVED],
        "delta_item_vs_oov": deltas[BY_ITEM],
        **_origin(protocol, resampled["cold"]),
        "comparisons": comparisons(protocol, resampled, confidence=settings.confidence),
        "warm_up": warm_up(protocol, resampled, rows),
        "calibration": {name: {s: _calibration(measured, name, s) for s in SLICES} for name in protocol.variants},
        "histogram": _histogram(measured),
        "top": protocol.top,
        "confidence": settings.confidence,
        "resamples": settings.bootstrap,
        "seed": seed,
    }
    return {key: without_nan(value) for key, value in summary.items()}


def _above(protocol: Protocol, found: Resampled, way: str, name: str) -> Interval:
    return found.difference(protocol.scores.index((way, name)), protocol.scores.index((way, BASELINE)))


def _figures(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, "low": found.low, "high": found.high}


def _metrics(measured: Measured, found: Resampled, name: str, slice_name: str) -> dict[str, Any]:
    protocol, ranks = measured.protocol, measured.ranks[slice_name]
    at, s = protocol.scores.index((SERVED, name)), SLICES.index(slice_name)
    served, by_item = found.single(at), found.single(protocol.scores.index((BY_ITEM, name)))
    return {
        "auc": measured.auc(name, slice_name),
        "gauc": served.value,
        "gauc_low": served.low,
        "gauc_high": served.high,
        "gauc_item": by_item.value,
        "gauc_item_low": by_item.low,
        "gauc_item_high": by_item.high,
        "ndcg": float(ranks.ndcg[at]),
        "recall": float(ranks.recall[at]),
        "logloss": measured.logloss(name, slice_name),
        "ece": measured.reliability(name, slice_name).error,
        "rows": int(measured.clicked[s] + measured.skipped[s]),
        "positives": int(measured.clicked[s]),
        "users": len(ranks.weight),
        "users_left_out": ranks.left_out,
    }


def _origin(protocol: Protocol, cold: Resampled) -> Summary:
    """Share of the gap to the best known proxy closed, and how much of each item gain is appeal, on cold rows."""

    def at(way: str, name: str) -> int:
        return protocol.scores.index((way, name))

    ceiling = next((name for name in CEILINGS if name in protocol.variants), None)
    gaps: dict[str, Summary] = {SERVED: {}, BY_ITEM: {}}
    for way, closed in gaps.items():
        for name in protocol.variants:
            if ceiling is not None and name != BASELINE:
                base = at(way, BASELINE)
                closed[name] = _figures("value", cold.share((at(way, name), base), (at(way, ceiling), base)))
    shares = {}
    base = at(BY_ITEM, BASELINE)
    for name in protocol.appeal:
        appeal, whole = at(BY_APPEAL, name), at(BY_ITEM, name)
        shares[name] = {
            "appeal": cold.difference(appeal, base).value,
            "taste": cold.difference(whole, appeal).value,
            **_figures("share", cold.share((appeal, base), (whole, base))),
        }
    return {"ceiling": ceiling, "gap_closed": gaps[SERVED], "gap_closed_item": gaps[BY_ITEM], "appeal_share": shares}


def _calibration(measured: Measured, name: str, slice_name: str) -> dict[str, list[float]]:
    found = measured.reliability(name, slice_name)
    return {key: getattr(found, key).tolist() for key in ("predicted", "observed", "rows")}


def _histogram(measured: Measured) -> Summary:
    counts = {
        name: {
            s: dict(zip(("skipped", "clicked"), measured.histogram[k, place].astype(int).tolist(), strict=True))
            for place, s in enumerate(SLICES)
        }
        for k, name in enumerate(measured.protocol.variants)
    }
    return {"edges": np.linspace(0, 1, LEVELS + 1).tolist(), "counts": counts}


def without_nan(value: Any) -> Any:
    """What JSON can hold: `None` for figures that are not defined."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
