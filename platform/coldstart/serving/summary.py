"""From figures to what people read: rates, percentiles, drift and calibration of each arm.

Legend: figures are those of all gateways, by the names under which `watch` keeps them.
"""

import math

import numpy as np

from coldstart.evaluation.metrics import stability
from coldstart.serving.board import Facts, Heard
from coldstart.serving.figures import (
    MOST,
    PROBABILITIES,
    SECONDS,
    SIZES,
    Figures,
    Sums,
    equal_mass,
    quantile,
    reliability_of,
)
from coldstart.serving.schemas import VECTORS
from coldstart.serving.watch import LIVE_S, OUTCOMES
from coldstart.serving.watch_answers import (
    FOUND,
    MODELS,
    ArmFigures,
    Batches,
    Calibration,
    Earned,
    Latency,
    Lookups,
    Queue,
    ShadowFigures,
    WatchAnswer,
)

CALIBRATION_BINS = 15
_DRIFT_BINS = 10
_NO_LATENCIES = np.zeros(len(SECONDS) + 1)
_NO_BATCHES = np.zeros(len(SIZES) + 2)
_SIZES = ["1", "2", *(f"{2**n + 1}-{2 ** (n + 1)}" for n in range(1, len(SIZES) - 1)), f"over {2 ** (len(SIZES) - 1)}"]


def summarise(heard: Heard, champion: str, challenger: str | None) -> WatchAnswer:
    """How serving does.

    Args:
        heard: Of all gateways.
        champion: Name of the release.
        challenger: Name of the release, if there is one.
    """
    figures = heard.figures
    in_flight, remembered = figures.get("present", np.zeros(2))
    received, joined = figures.get("feedback", np.zeros(2))
    stages = sorted(name.split("|")[1] for name in figures if name.startswith("stage|"))
    return WatchAnswer(
        gateways=heard.gateways,
        champion=_arm(figures, heard.facts, champion),
        challenger=_arm(figures, heard.facts, challenger) if challenger else None,
        shadow=_shadow(figures, challenger) if challenger else None,
        stages={name: _latency(figures[f"stage|{name}"]) for name in stages},
        queues={model: _queue(figures.get(f"queue|{model}", np.zeros(2))) for model in MODELS},
        batches={model: _batches(figures.get(f"batch|{model}", _NO_BATCHES)) for model in MODELS},
        publish=_latency(figures.get("publish", _NO_LATENCIES)),
        taken_in=_latency(figures.get("taken_in", _NO_LATENCIES)),
        newest_item_s=float(figures[f"{MOST}age"][0]) if f"{MOST}age" in figures else None,
        in_flight=int(in_flight),
        feedback_received=int(received),
        feedback_joined=int(joined),
        remembered_candidates=int(remembered),
    )


def _arm(figures: Figures, facts: Facts, release: str) -> ArmFigures:
    outcomes = figures.get(f"requests|{release}", np.zeros(len(OUTCOMES)))
    per_s = dict(zip(OUTCOMES, outcomes / LIVE_S, strict=True))
    vectors = figures.get(f"vectors|{release}", np.zeros(len(VECTORS)))
    rows, total = figures.get(f"mean|{release}", np.zeros(2))
    labelled: dict[str, Sums] = {
        vector: figures[f"calibration|{release}|{vector}"]
        for vector in VECTORS
        if f"calibration|{release}|{vector}" in figures
    }
    if labelled:
        labelled = {"all": np.sum(list(labelled.values()), axis=0), **labelled}
    earned = facts.get(f"earned|{release}")
    return ArmFigures(
        release=release,
        requests=_latency(figures.get(f"latency|{release}", _NO_LATENCIES)),
        refused_per_s=per_s["refused"],
        failed_per_s=per_s["failed"],
        vectors={
            kind: _finite(share) or 0.0 for kind, share in zip(VECTORS, vectors / max(vectors.sum(), 1), strict=True)
        },
        lookups=_lookups(figures.get(f"lookups|{release}", np.zeros(len(FOUND)))),
        mean_score=float(total / rows) if rows else None,
        drift={
            "evaluation": drift(facts.get(f"reference|{release}"), figures.get(f"scores|{release}")),
            "first": drift(facts.get(f"first|{release}"), figures.get(f"scores|{release}")),
        },
        calibration={name: _calibration(sums) for name, sums in labelled.items()},
        earned=None if earned is None else Earned.model_validate(earned),
    )


def drift(reference: Sums | None, scores: Sums | None) -> float | None:
    """Stability index over tenths of the reference, both in bins of PROBABILITIES; `None` of nothing."""
    if reference is None or scores is None:
        return None
    group = equal_mass(np.asarray(reference, np.float64), _DRIFT_BINS)
    expected, found = (
        np.bincount(group, weights=counts, minlength=_DRIFT_BINS).astype(np.float64) for counts in (reference, scores)
    )
    return _finite(stability(expected, found))


def _calibration(sums: Sums) -> Calibration:
    rows, predicted, observed = sums.reshape(3, len(PROBABILITIES) + 1).sum(axis=1)
    return Calibration(
        rows=int(rows),
        predicted=_finite(predicted / max(rows, 1)) if rows else None,
        observed=_finite(observed / max(rows, 1)) if rows else None,
        error=_finite(reliability_of(sums, bins=CALIBRATION_BINS).error),
    )


def _shadow(figures: Figures, release: str) -> ShadowFigures | None:
    rows, gap, size = figures.get(f"shadow|{release}", np.zeros(3))
    (skipped,) = figures.get(f"skipped|{release}", np.zeros(1))
    if not rows and not skipped:
        return None
    return ShadowFigures(
        candidates=int(rows),
        mean_difference=float(gap / rows) if rows else None,
        mean_absolute_difference=float(size / rows) if rows else None,
        skipped=int(skipped),
    )


def _latency(counts: Sums) -> Latency:
    p50, p90, p99 = (_finite(1000 * quantile(counts, SECONDS, share)) for share in (0.5, 0.9, 0.99))
    return Latency(per_s=float(counts.sum() / LIVE_S), p50_ms=p50, p90_ms=p90, p99_ms=p99)


def _lookups(counts: Sums) -> Lookups:
    shares = counts / max(counts.sum(), 1)
    return Lookups(per_s=float(counts.sum() / LIVE_S), shares=dict(zip(FOUND, shares.tolist(), strict=True)))


def _queue(sums: Sums) -> Queue:
    now, peak = sums
    return Queue(now=int(now), peak=int(peak))


def _batches(sums: Sums) -> Batches:
    counts, asks = sums[:-1], sums[-1]
    return Batches(
        per_s=float(counts.sum() / LIVE_S),
        mean=float(asks / counts.sum()) if counts.sum() else None,
        sizes={size: int(count) for size, count in zip(_SIZES, counts, strict=True) if count},
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
