"""The summary of an evaluation: metrics, paired differences, warm-up curve, origin of the gain.

There are two GAUCs. `gauc` is the standard one, which ranks rows by the raw logit. `gauc_item` ranks them by the logit
minus the logit of the OOV row in the same context. The candidates of one request share user and history, so terms that
depend only on those never change a ranking. The rows of a log come from different times, where such terms do matter: a
running click rate falls after a skip and rises after a click, which points the wrong way for the remaining rows of a
finite log (labels drawn without replacement). So the standard GAUC of the OOV row can be far below one half, and every
variant seems to gain more than its slot vector adds. `gauc_item` avoids this, and gains are split by it. True click
probabilities do not read past labels, so both GAUCs rank them as they are.
"""

from typing import Any

import numpy as np

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.inference.intervals import Interval
from coldstart.evaluation.inference.pairwise_tests import pairwise_tests
from coldstart.evaluation.inference.two_way_bootstrap import TwoWayBootstrap
from coldstart.evaluation.protocol.partial_metrics import HISTOGRAM_BINS, MergedMetrics
from coldstart.evaluation.protocol.protocol import ITEM_MEAN, MINUS_OOV, RAW, EvaluationProtocol
from coldstart.evaluation.protocol.slices import SLICES
from coldstart.evaluation.protocol.variants import BASELINE, UPPER_BOUNDS
from coldstart.evaluation.protocol.warm_up_curve import warm_up_curve
from coldstart.metrics.undefined import nan_to_none

Summary = dict[str, Any]


def build_summary(merged: MergedMetrics, settings: Evaluation, *, seed: int) -> Summary:
    """All results that the report shows, ready for JSON: undefined values are `None`.

    Args:
        merged: Metrics of variants that include `oov`.
        settings: Intervals.
        seed: Of the resampling.

    Returns:
        `metrics[variant][slice]`; `delta_vs_oov[variant][slice]` of `gauc` and `delta_item_vs_oov` of `gauc_item`; on
        the cold slice `gap_closed[variant]` and `gap_closed_item[variant]`, as a share of the `upper_bound`'s, and
        `item_effect_share[variant]`; `comparisons` from `pairwise_tests`; `warm_up` from `warm_up_curve`;
        `calibration[variant][slice]` and `histogram` of click probabilities; `headline`, the variant that the report
        is about.
    """
    protocol = merged.protocol
    resampled = {name: TwoWayBootstrap(ranks, settings, seed) for name, ranks in merged.ranks.items()}
    others = [name for name in protocol.variants if name != BASELINE]
    deltas = {
        kind: {
            name: {s: _with_interval("gauc", _difference(protocol, resampled[s], kind, name)) for s in SLICES}
            for name in others
        }
        for kind in (RAW, MINUS_OOV)
    }
    rows = merged.rows[len(SLICES) :].astype(int).tolist()
    summary: Summary = {
        "metrics": {name: {s: _metrics(merged, resampled[s], name, s) for s in SLICES} for name in protocol.variants},
        "delta_vs_oov": deltas[RAW],
        "delta_item_vs_oov": deltas[MINUS_OOV],
        **_origin(protocol, resampled["cold"]),
        "comparisons": pairwise_tests(protocol, resampled, confidence=settings.confidence),
        "warm_up": warm_up_curve(protocol, resampled, rows),
        "calibration": {name: {s: _calibration(merged, name, s) for s in SLICES} for name in protocol.variants},
        "histogram": _histogram(merged),
        "headline": protocol.headline,
        "top_k": protocol.top_k,
        "confidence": settings.confidence,
        "resamples": settings.num_resamples,
        "seed": seed,
    }
    return {key: nan_to_none(value) for key, value in summary.items()}


def _difference(protocol: EvaluationProtocol, found: TwoWayBootstrap, kind: str, name: str) -> Interval:
    return found.difference(protocol.scores.index((kind, name)), protocol.scores.index((kind, BASELINE)))


def _with_interval(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, "low": found.low, "high": found.high}


def _metrics(merged: MergedMetrics, found: TwoWayBootstrap, name: str, slice_name: str) -> dict[str, Any]:
    protocol, ranks = merged.protocol, merged.ranks[slice_name]
    at, s = protocol.scores.index((RAW, name)), SLICES.index(slice_name)
    served, by_item = found.single(at), found.single(protocol.scores.index((MINUS_OOV, name)))
    return {
        "auc": merged.auc(name, slice_name),
        "gauc": served.value,
        "gauc_low": served.low,
        "gauc_high": served.high,
        "gauc_item": by_item.value,
        "gauc_item_low": by_item.low,
        "gauc_item_high": by_item.high,
        "ndcg": float(ranks.ndcg[at]),
        "recall": float(ranks.recall[at]),
        "logloss": merged.logloss(name, slice_name),
        "ece": merged.reliability(name, slice_name).error,
        "rows": int(merged.clicked[s] + merged.skipped[s]),
        "positives": int(merged.clicked[s]),
        "users": len(ranks.weight),
        "users_left_out": ranks.left_out,
    }


def _origin(protocol: EvaluationProtocol, cold: TwoWayBootstrap) -> Summary:
    """On cold rows: the closed share of the gap to the upper bound, and the split of gains into their two parts."""

    def at(way: str, name: str) -> int:
        return protocol.scores.index((way, name))

    upper_bound = next((name for name in UPPER_BOUNDS if name in protocol.variants), None)
    gaps: dict[str, Summary] = {RAW: {}, MINUS_OOV: {}}
    for way, closed in gaps.items():
        for name in protocol.variants:
            if upper_bound is not None and name != BASELINE:
                base = at(way, BASELINE)
                closed[name] = _with_interval("value", cold.share((at(way, name), base), (at(way, upper_bound), base)))
    shares = {}
    base = at(MINUS_OOV, BASELINE)
    for name in protocol.item_effect:
        item_effect, whole = at(ITEM_MEAN, name), at(MINUS_OOV, name)
        shares[name] = {
            "item_effect": cold.difference(item_effect, base).value,
            "personalization": cold.difference(whole, item_effect).value,
            **_with_interval("share", cold.share((item_effect, base), (whole, base))),
        }
    return {
        "upper_bound": upper_bound,
        "gap_closed": gaps[RAW],
        "gap_closed_item": gaps[MINUS_OOV],
        "item_effect_share": shares,
    }


def _calibration(merged: MergedMetrics, name: str, slice_name: str) -> dict[str, list[float]]:
    found = merged.reliability(name, slice_name)
    return {key: getattr(found, key).tolist() for key in ("predicted", "observed", "rows")}


def _histogram(merged: MergedMetrics) -> Summary:
    counts = {
        name: {
            s: dict(zip(("skipped", "clicked"), merged.histogram[k, place].astype(int).tolist(), strict=True))
            for place, s in enumerate(SLICES)
        }
        for k, name in enumerate(merged.protocol.variants)
    }
    return {"edges": np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist(), "counts": counts}
