"""Two evaluated runs side by side: figures, what was set differently, and paired differences on the very same rows."""

from typing import Any

import numpy as np

from coldstart.evaluation.intervals import corrected, interval, resample, tested
from coldstart.evaluation.runs import EvaluatedRun, RankedUsers, scores_by_metric, why_not_paired
from coldstart.evaluation.slices import SLICES, slices
from coldstart.evaluation.summary import without_nan

FIGURES = ("gauc", "gauc_item", "auc", "logloss", "ece", "ndcg", "recall")


def compare(left: EvaluatedRun, right: EvaluatedRun) -> dict[str, Any]:
    """Compares `right` with `left`, ready for JSON: figures that are not defined are `None`.

    Differences are paired over users: both runs' scores are ranked within the same resamples of the same users. A
    difference holds for other users of this catalogue and for these two trainings; what other seeds would have given
    is in neither run (`coldstart run evaluate --seeds`). Holm's correction is over the variants of a slice and metric.

    Returns:
        `runs` (name, path, evaluation); `lineage` (kind, values, same); `settings` that differ (setting, values);
        `figures` (slice, variant, metric, values) of variants that both have; `paired`, and if not the `reason`; and
        `differences` (slice, variant, metric, delta, low, high, p, p_holm, mde), empty when not paired.
    """
    runs = (left, right)
    summaries = [run.artifact.about for run in runs]
    variants = [name for name in summaries[0]["metrics"] if name in summaries[1]["metrics"]]
    reason = why_not_paired(left, right)
    kinds = sorted(set(left.artifact.lineage) | set(right.artifact.lineage))
    made_from = [(kind, [run.artifact.lineage.get(kind) for run in runs]) for kind in kinds]
    set_to = [
        (name, [run.settings.get(name) for run in runs]) for name in sorted(set(left.settings) | set(right.settings))
    ]
    found = {
        "runs": [
            {"name": run.settings["name"], "path": str(run.path), "evaluation": run.artifact.fingerprint}
            for run in runs
        ],
        "lineage": [{"kind": kind, "values": values, "same": values[0] == values[1]} for kind, values in made_from],
        "settings": [{"setting": name, "values": values} for name, values in set_to if values[0] != values[1]],
        "figures": [
            {
                "slice": name,
                "variant": variant,
                "metric": metric,
                "values": [summary["metrics"][variant][name].get(metric) for summary in summaries],
            }
            for name in SLICES
            for variant in variants
            for metric in FIGURES
        ],
        "paired": reason is None,
        "reason": reason,
        "differences": [] if reason else _differences(left, right, variants),
        "confidence": summaries[0]["confidence"],
        "resamples": summaries[0]["resamples"],
    }
    return dict(without_nan(found))


def _differences(left: EvaluatedRun, right: EvaluatedRun, variants: list[str]) -> list[dict[str, Any]]:
    """One entry per slice, metric and variant, each family corrected together."""
    settings = left.artifact.about
    ours, theirs = scores_by_metric(left.rows), scores_by_metric(right.rows)
    entries = []
    for name, member in slices(left.rows.train_events, left.rows.age_s).items():
        for metric in ours:
            both = {f"left {v}": ours[metric][v] for v in variants} | {
                f"right {v}": theirs[metric][v] for v in variants
            }
            users = RankedUsers.of(left.rows, member, both)
            draws = resample(users.auc, users.weight, resamples=settings["resamples"], seed=settings["seed"])
            gained = np.subtract(*reversed(np.split(users.gauc, 2)))
            drawn = np.subtract(*reversed(np.split(draws, 2, axis=1)))
            family = []
            for variant, delta, spread in zip(variants, gained, drawn.T, strict=True):
                span = interval(float(delta), spread, confidence=settings["confidence"])
                family.append(
                    {
                        "slice": name,
                        "variant": variant,
                        "metric": metric,
                        "delta": span.value,
                        "low": span.low,
                        "high": span.high,
                        **tested(span.value, spread, confidence=settings["confidence"]),
                    }
                )
            entries += corrected(family)
    return entries
