"""Compares two evaluated runs: metrics, settings that differ, and paired differences on the same rows."""

from typing import Any

import numpy as np

from coldstart.evaluation.compare.evaluated_runs import EvaluatedRun, UserAucs, scores_by_metric, unpaired_reason
from coldstart.evaluation.inference.intervals import difference_test, holm_corrected, interval, resample
from coldstart.evaluation.protocol.slices import SLICES, slices
from coldstart.metrics.undefined import nan_to_none

METRIC_NAMES = ("gauc", "gauc_item", "auc", "logloss", "ece", "ndcg", "recall")


def compare_runs(left: EvaluatedRun, right: EvaluatedRun) -> dict[str, Any]:
    """Compares `right` with `left`, ready for JSON: undefined values are `None`.

    Differences are paired: both runs use the same resamples of the same users. They generalize to other users of this
    catalog, but not to other training seeds (see `coldstart evaluate --seeds`). Holm's correction is over the variants
    of a slice and metric.

    Returns:
        `runs` (name, path, evaluation); `lineage` (kind, values, same); `settings` that differ (setting, values);
        `metrics` (slice, variant, metric, values) of variants that both have; `paired`, or the `reason` why not; and
        `differences` (slice, variant, metric, delta, low, high, p, p_holm, mde), empty if not paired.
    """
    runs = (left, right)
    summaries = [run.artifact.metadata for run in runs]
    variants = [name for name in summaries[0]["metrics"] if name in summaries[1]["metrics"]]
    reason = unpaired_reason(left, right)
    kinds = sorted(set(left.artifact.lineage) | set(right.artifact.lineage))
    lineage = [(kind, [run.artifact.lineage.get(kind) for run in runs]) for kind in kinds]
    settings = [
        (name, [run.settings.get(name) for run in runs]) for name in sorted(set(left.settings) | set(right.settings))
    ]
    comparison = {
        "runs": [
            {"name": run.settings["name"], "path": str(run.path), "evaluation": run.artifact.fingerprint}
            for run in runs
        ],
        "lineage": [{"kind": kind, "values": values, "same": values[0] == values[1]} for kind, values in lineage],
        "settings": [{"setting": name, "values": values} for name, values in settings if values[0] != values[1]],
        "metrics": [
            {
                "slice": name,
                "variant": variant,
                "metric": metric,
                "values": [summary["metrics"][variant][name].get(metric) for summary in summaries],
            }
            for name in SLICES
            for variant in variants
            for metric in METRIC_NAMES
        ],
        "paired": reason is None,
        "reason": reason,
        "differences": [] if reason else _differences(left, right, variants),
        "confidence": summaries[0]["confidence"],
        "resamples": summaries[0]["resamples"],
    }
    return dict(nan_to_none(comparison))


def _differences(left: EvaluatedRun, right: EvaluatedRun, variants: list[str]) -> list[dict[str, Any]]:
    """One entry per slice, metric and variant, corrected by family."""
    settings = left.artifact.metadata
    left_scores, right_scores = scores_by_metric(left.rows), scores_by_metric(right.rows)
    entries = []
    for name, member in slices(left.rows.train_events, left.rows.age_s).items():
        for metric in left_scores:
            both = {f"left {v}": left_scores[metric][v] for v in variants} | {
                f"right {v}": right_scores[metric][v] for v in variants
            }
            users = UserAucs.of(left.rows, member, both)
            draws = resample(users.auc, users.weight, resamples=settings["resamples"], seed=settings["seed"])
            deltas = np.subtract(*reversed(np.split(users.gauc, 2)))
            delta_draws = np.subtract(*reversed(np.split(draws, 2, axis=1)))
            family = []
            for variant, delta, spread in zip(variants, deltas, delta_draws.T, strict=True):
                span = interval(float(delta), spread, confidence=settings["confidence"])
                family.append(
                    {
                        "slice": name,
                        "variant": variant,
                        "metric": metric,
                        "delta": span.value,
                        "low": span.low,
                        "high": span.high,
                        **difference_test(span.value, spread, confidence=settings["confidence"]),
                    }
                )
            entries += holm_corrected(family)
    return entries
