"""Prometheus metrics of a gateway; Ray adds the prefix `ray_` and a label for the replica."""

from collections.abc import Iterable
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from coldstart.serving.api.schemas import ABTestStatus
from coldstart.serving.monitoring.stats_schemas import ServingStats, VariantStats
from coldstart.serving.monitoring.window_stats import BATCH_SIZE_EDGES

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
_SIZES = [0.5, *BATCH_SIZE_EDGES.tolist()]
"""Bucket edges chosen so that Ray's midpoint estimate equals the true size."""
_MAX_OBSERVATIONS = 500
"""Most observations per histogram and second: more do not improve percentiles, and each costs 2 us."""


def _tags(*names: str) -> Any:
    # Ray annotates `tag_keys` as a tuple of one name.
    return names


class Metrics:
    """Counters are per gateway. Gauges hold values over all gateways, so take the maximum over the replicas."""

    def __init__(self) -> None:
        self._create_request_metrics()
        self._create_item_metrics()
        self._create_score_metrics()
        self._create_challenger_metrics()

    def _create_request_metrics(self) -> None:
        self.requests = Counter(
            "coldstart_rank_requests_total",
            "Rank requests of one user; outcome: ok, refused, failed",
            _tags("variant", "outcome"),
        )
        self.seconds = Histogram("coldstart_rank_seconds", "Latency of rank requests", _SECONDS, ("variant",))
        self.stages = Histogram("coldstart_stage_seconds", "Latency by stage of a request", _SECONDS, ("stage",))
        self.in_flight = Gauge("coldstart_rank_in_flight", "Rank requests in flight")
        self.gateways = Gauge("coldstart_gateways", "Gateways that share statistics")
        self.batches = Histogram("coldstart_batch_size", "Inputs of a model in one forward pass", _SIZES, ("model",))
        self.queue = Gauge(
            "coldstart_model_queue",
            "Calls of a model without an answer yet; stat: now, peak (of the last minute)",
            _tags("model", "stat"),
        )

    def _create_item_metrics(self) -> None:
        self.publish = Histogram(
            "coldstart_publish_seconds", "From the arrival of an item to its acknowledgement", _SECONDS
        )
        self.proxy_propagation = Histogram(
            "coldstart_proxy_propagation_seconds", "From a proxy's storage until a gateway ranks by it", _SECONDS
        )
        self.newest_proxy_age = Gauge(
            "coldstart_newest_proxy_age_seconds", "Age of the newest proxy that the gateways have loaded"
        )
        self.candidates = Counter(
            "coldstart_candidates_total", "Candidates by source of their item vector", _tags("variant", "slot_source")
        )
        self.lookups = Counter(
            "coldstart_lookups_total", "Candidates given by id; result: id, proxy, oov", _tags("variant", "result")
        )
        self.proxy_id_cosine = Gauge(
            "coldstart_proxy_id_cosine",
            "Cosine of proxies and the ID rows learned later; stat: cosine, ceiling, chance",
            ("stat",),
        )

    def _create_score_metrics(self) -> None:
        self.release = Gauge(
            "coldstart_release_info",
            "Always 1; the label release is the release of the variant",
            _tags("variant", "release"),
        )
        self.score = Gauge("coldstart_score_mean", "Mean predicted click probability", ("variant",))
        self.drift = Gauge(
            "coldstart_score_drift",
            "Population stability index of the scores; above 0.2 is a major shift",
            _tags("variant", "reference"),
        )
        self.feedback = Counter("coldstart_feedback_total", "Feedback events; outcome: received, joined", ("outcome",))
        self.labeled = Gauge(
            "coldstart_labeled_candidates", "Candidates with feedback", _tags("variant", "slot_source")
        )
        self.ctr_predicted = Gauge(
            "coldstart_ctr_predicted",
            "Mean predicted click probability of candidates with feedback",
            _tags("variant", "slot_source"),
        )
        self.ctr_observed = Gauge(
            "coldstart_ctr_observed", "Click rate of candidates with feedback", _tags("variant", "slot_source")
        )
        self.calibration = Gauge(
            "coldstart_calibration_error", "Expected calibration error", _tags("variant", "slot_source")
        )
        self.feedback_buffer_size = Gauge(
            "coldstart_feedback_buffer_size", "Scores kept for feedback that has not arrived yet"
        )

    def _create_challenger_metrics(self) -> None:
        self.traffic_fraction = Gauge(
            "coldstart_challenger_traffic_fraction", "Fraction of users in the A/B test; 0 after an abort"
        )
        self.aborted = Gauge("coldstart_challenger_aborted", "1 if the A/B test was aborted")
        self.fallbacks = Counter(
            "coldstart_challenger_fallbacks_total", "Requests that the champion answered because the challenger failed"
        )
        self.skipped = Counter(
            "coldstart_shadow_skipped_total", "Requests not sent to the challenger because too many were in flight"
        )
        self.difference = Gauge(
            "coldstart_shadow_score_difference", "Mean absolute difference between scores of challenger and champion"
        )


def observe(histogram: Histogram, values: Iterable[float], tags: dict[str, str]) -> None:
    """Observes at most about _MAX_OBSERVATIONS of the values."""
    observed = list(values)
    for value in observed[:: max(1, len(observed) // _MAX_OBSERVATIONS)]:
        histogram.observe(value, tags)


def set_gauges(metrics: Metrics, stats: ServingStats, ab_test: ABTestStatus | None) -> None:
    """Sets all gauges."""
    metrics.gateways.set(stats.gateways)
    metrics.in_flight.set(stats.in_flight)
    metrics.feedback_buffer_size.set(stats.feedback_buffer_size)
    for model, queue in stats.queues.items():
        metrics.queue.set(queue.now, {"model": model, "stat": "now"})
        metrics.queue.set(queue.peak, {"model": model, "stat": "peak"})
    if stats.newest_proxy_age_s is not None:
        metrics.newest_proxy_age.set(stats.newest_proxy_age_s)
    aborted = ab_test is not None and ab_test.state == "aborted"
    metrics.aborted.set(float(aborted))
    metrics.traffic_fraction.set(0.0 if ab_test is None or aborted else ab_test.traffic_fraction)
    if stats.shadow is not None and stats.shadow.mean_absolute_difference is not None:
        metrics.difference.set(stats.shadow.mean_absolute_difference)
    _set_variant_gauges(metrics, "champion", stats.champion)
    if stats.challenger is not None:
        _set_variant_gauges(metrics, "challenger", stats.challenger)


def _set_variant_gauges(metrics: Metrics, variant: str, stats: VariantStats) -> None:
    metrics.release.set(1.0, {"variant": variant, "release": stats.release})
    if stats.mean_score is not None:
        metrics.score.set(stats.mean_score, {"variant": variant})
    for reference, shift in stats.drift.items():
        if shift is not None:
            metrics.drift.set(shift, {"variant": variant, "reference": reference})
    for source, calibration in stats.calibration.items():
        tags = {"variant": variant, "slot_source": source}
        metrics.labeled.set(calibration.rows, tags)
        for gauge, value in (
            (metrics.ctr_predicted, calibration.predicted),
            (metrics.ctr_observed, calibration.observed),
            (metrics.calibration, calibration.error),
        ):
            if value is not None:
                gauge.set(value, tags)
    if variant == "champion" and stats.proxy_quality is not None:
        for stat in ("cosine", "ceiling", "chance"):
            metrics.proxy_id_cosine.set(getattr(stats.proxy_quality, stat), {"stat": stat})
