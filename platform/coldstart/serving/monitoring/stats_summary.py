"""Computes rates, percentiles, drift and calibration from the window statistics of all gateways.

The names of the statistics are those that `stats_collector` gives them.
"""

import math

import numpy as np

from coldstart.metrics.clicks import population_stability_index
from coldstart.serving.api.schemas import SLOT_SOURCES
from coldstart.serving.monitoring.stats_aggregator import AggregatedStats, SharedValues
from coldstart.serving.monitoring.stats_collector import LIVE_WINDOW_S, OUTCOMES
from coldstart.serving.monitoring.stats_schemas import (
    LOOKUP_RESULTS,
    MODELS,
    BatchStats,
    CalibrationStats,
    LatencyStats,
    LookupStats,
    ProxyQuality,
    QueueStats,
    ServingStats,
    ShadowStats,
    VariantStats,
)
from coldstart.serving.monitoring.window_stats import (
    BATCH_SIZE_EDGES,
    LATENCY_EDGES_S,
    MAX_PREFIX,
    SCORE_EDGES,
    Sums,
    WindowStats,
    binned_quantile,
    equal_mass_bins,
    reliability_from_sums,
)

CALIBRATION_BINS = 15
_DRIFT_BINS = 10
_NO_LATENCIES = np.zeros(len(LATENCY_EDGES_S) + 1)
_NO_BATCHES = np.zeros(len(BATCH_SIZE_EDGES) + 2)
_SIZES = [
    "1",
    "2",
    *(f"{2**n + 1}-{2 ** (n + 1)}" for n in range(1, len(BATCH_SIZE_EDGES) - 1)),
    f"over {2 ** (len(BATCH_SIZE_EDGES) - 1)}",
]


def summarize_stats(aggregated: AggregatedStats, champion: str, challenger: str | None) -> ServingStats:
    """Computes the response of `GET /v1/stats`.

    Args:
        aggregated: Statistics of all gateways.
        champion: Name of the champion's release.
        challenger: Name of the challenger's release, if there is one.
    """
    stats = aggregated.stats
    in_flight, buffered = stats.get("present", np.zeros(2))
    received, joined = stats.get("feedback", np.zeros(2))
    stages = sorted(name.split("|")[1] for name in stats if name.startswith("stage|"))
    return ServingStats(
        gateways=aggregated.gateways,
        champion=_variant(stats, aggregated.shared, champion),
        challenger=_variant(stats, aggregated.shared, challenger) if challenger else None,
        shadow=_shadow(stats, challenger) if challenger else None,
        stages={name: _latency(stats[f"stage|{name}"]) for name in stages},
        queues={model: _queue(stats.get(f"queue|{model}", np.zeros(2))) for model in MODELS},
        batches={model: _batches(stats.get(f"batch|{model}", _NO_BATCHES)) for model in MODELS},
        publish=_latency(stats.get("publish", _NO_LATENCIES)),
        proxy_propagation=_latency(stats.get("proxy_propagation", _NO_LATENCIES)),
        newest_proxy_age_s=float(stats[f"{MAX_PREFIX}age"][0]) if f"{MAX_PREFIX}age" in stats else None,
        in_flight=int(in_flight),
        feedback_received=int(received),
        feedback_joined=int(joined),
        feedback_buffer_size=int(buffered),
    )


def _variant(stats: WindowStats, shared: SharedValues, release: str) -> VariantStats:
    outcomes = stats.get(f"requests|{release}", np.zeros(len(OUTCOMES)))
    per_s = dict(zip(OUTCOMES, outcomes / LIVE_WINDOW_S, strict=True))
    slot_sources = stats.get(f"slot_sources|{release}", np.zeros(len(SLOT_SOURCES)))
    rows, total = stats.get(f"mean|{release}", np.zeros(2))
    labeled: dict[str, Sums] = {
        source: stats[f"calibration|{release}|{source}"]
        for source in SLOT_SOURCES
        if f"calibration|{release}|{source}" in stats
    }
    if labeled:
        labeled = {"all": np.sum(list(labeled.values()), axis=0), **labeled}
    quality = shared.get(f"proxy_quality|{release}")
    return VariantStats(
        release=release,
        requests=_latency(stats.get(f"latency|{release}", _NO_LATENCIES)),
        refused_per_s=per_s["refused"],
        failed_per_s=per_s["failed"],
        slot_sources={
            source: _finite(share) or 0.0
            for source, share in zip(SLOT_SOURCES, slot_sources / max(slot_sources.sum(), 1), strict=True)
        },
        lookups=_lookups(stats.get(f"lookups|{release}", np.zeros(len(LOOKUP_RESULTS)))),
        mean_score=float(total / rows) if rows else None,
        drift={
            "evaluation": drift(shared.get(f"reference|{release}"), stats.get(f"scores|{release}")),
            "initial": drift(shared.get(f"initial|{release}"), stats.get(f"scores|{release}")),
        },
        calibration={name: _calibration(sums) for name, sums in labeled.items()},
        proxy_quality=None if quality is None else ProxyQuality.model_validate(quality),
    )


def drift(reference: Sums | None, scores: Sums | None) -> float | None:
    """Population stability index over tenths of the reference, from counts in the bins of SCORE_EDGES."""
    if reference is None or scores is None:
        return None
    group = equal_mass_bins(np.asarray(reference, np.float64), _DRIFT_BINS)
    expected, observed = (
        np.bincount(group, weights=counts, minlength=_DRIFT_BINS).astype(np.float64) for counts in (reference, scores)
    )
    return _finite(population_stability_index(expected, observed))


def _calibration(sums: Sums) -> CalibrationStats:
    rows, predicted, observed = sums.reshape(3, len(SCORE_EDGES) + 1).sum(axis=1)
    return CalibrationStats(
        rows=int(rows),
        predicted=_finite(predicted / max(rows, 1)) if rows else None,
        observed=_finite(observed / max(rows, 1)) if rows else None,
        error=_finite(reliability_from_sums(sums, bins=CALIBRATION_BINS).error),
    )


def _shadow(stats: WindowStats, release: str) -> ShadowStats | None:
    rows, difference, absolute = stats.get(f"shadow|{release}", np.zeros(3))
    (skipped,) = stats.get(f"skipped|{release}", np.zeros(1))
    if not rows and not skipped:
        return None
    return ShadowStats(
        candidates=int(rows),
        mean_difference=float(difference / rows) if rows else None,
        mean_absolute_difference=float(absolute / rows) if rows else None,
        skipped=int(skipped),
    )


def _latency(counts: Sums) -> LatencyStats:
    p50, p90, p99 = (_finite(1000 * binned_quantile(counts, LATENCY_EDGES_S, share)) for share in (0.5, 0.9, 0.99))
    return LatencyStats(per_s=float(counts.sum() / LIVE_WINDOW_S), p50_ms=p50, p90_ms=p90, p99_ms=p99)


def _lookups(counts: Sums) -> LookupStats:
    shares = counts / max(counts.sum(), 1)
    return LookupStats(
        per_s=float(counts.sum() / LIVE_WINDOW_S), shares=dict(zip(LOOKUP_RESULTS, shares.tolist(), strict=True))
    )


def _queue(sums: Sums) -> QueueStats:
    now, peak = sums
    return QueueStats(now=int(now), peak=int(peak))


def _batches(sums: Sums) -> BatchStats:
    counts, inputs = sums[:-1], sums[-1]
    return BatchStats(
        per_s=float(counts.sum() / LIVE_WINDOW_S),
        mean=float(inputs / counts.sum()) if counts.sum() else None,
        sizes={size: int(count) for size, count in zip(_SIZES, counts, strict=True) if count},
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
