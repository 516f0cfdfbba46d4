"""The metrics of a gateway, as Prometheus sees them (with `ray_` before the name, and the replica as a label)."""

from collections.abc import Iterable
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from coldstart.serving.figures import SIZES
from coldstart.serving.schemas import TrialAnswer
from coldstart.serving.watch_answers import ArmFigures, WatchAnswer

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
_SIZES = [0.5, *SIZES.tolist()]
"""Sizes in the middle of their buckets, for Ray takes that middle for every value when it adds them up."""
_MOST = 500
"""Observations of one kind that are passed on in one second: percentiles of more are no better, and each costs 2 us."""


def _tags(*names: str) -> Any:
    # Ray's own annotation allows one name only.
    return names


class Meters:
    """Counters count, gauges are of all gateways together, so of several equal ones take the maximum."""

    def __init__(self) -> None:
        self.requests = Counter(
            "coldstart_rank_requests",
            "Rank requests of one user; outcome: ok, refused, failed",
            _tags("arm", "outcome"),
        )
        self.seconds = Histogram("coldstart_rank_seconds", "Latency of rank requests", _SECONDS, ("arm",))
        self.stages = Histogram("coldstart_stage_seconds", "Latency by stage of a request", _SECONDS, ("stage",))
        self.batches = Histogram("coldstart_batch_size", "Asks that a model did in one pass", _SIZES, ("model",))
        self.queue = Gauge(
            "coldstart_model_queue",
            "Asks without an answer yet; figure: now, peak of a minute",
            _tags("model", "figure"),
        )
        self.publish = Histogram("coldstart_publish_seconds", "From an item's arrival to its acknowledgement", _SECONDS)
        self.taken_in = Histogram("coldstart_taken_in_seconds", "From the store to rankable at a gateway", _SECONDS)
        self.newest = Gauge("coldstart_newest_item_seconds", "Age of the newest proxy that gateways hold")
        self.candidates = Counter("coldstart_candidates", "Candidates by what stood for them", _tags("arm", "vector"))
        self.lookups = Counter(
            "coldstart_lookups", "Candidates given by id; found: known, proxy, neither", _tags("arm", "found")
        )
        self.in_flight = Gauge("coldstart_rank_in_flight", "Rank requests that are being answered")
        self.gateways = Gauge("coldstart_gateways", "Gateways that share figures")
        self.release = Gauge("coldstart_release", "1: which release an arm is", _tags("arm", "release"))
        self.score = Gauge("coldstart_score_mean", "Mean click probability given", ("arm",))
        self.drift = Gauge(
            "coldstart_score_drift", "Population stability index of scores; above 0.2 look", _tags("arm", "reference")
        )
        self.feedback = Counter("coldstart_feedback", "Feedback; outcome: received, joined", ("outcome",))
        self.labelled = Gauge("coldstart_labelled_candidates", "Candidates with feedback", _tags("arm", "vector"))
        self.predicted = Gauge("coldstart_clicks_predicted", "Mean click probability of those", _tags("arm", "vector"))
        self.observed = Gauge("coldstart_clicks_observed", "Click rate of those", _tags("arm", "vector"))
        self.calibration = Gauge("coldstart_calibration_error", "Expected calibration error", _tags("arm", "vector"))
        self.remembered = Gauge("coldstart_remembered_candidates", "Scores kept until feedback arrives")
        self.share = Gauge("coldstart_challenger_share", "Share of users in the trial; 0 when aborted")
        self.aborted = Gauge("coldstart_challenger_aborted", "1: the trial was aborted")
        self.fallbacks = Counter("coldstart_challenger_fallbacks", "Requests the champion answered in its stead")
        self.skipped = Counter("coldstart_shadow_skipped", "Requests the challenger was too slow to be asked")
        self.difference = Gauge("coldstart_shadow_difference", "Mean absolute difference of scores from the champion's")
        self.earned = Gauge(
            "coldstart_earned_cosine",
            "Proxy against the ID row learned later; figure: cosine, ceiling, chance",
            ("figure",),
        )


def observe(histogram: Histogram, values: Iterable[float], tags: dict[str, str]) -> None:
    """Passes on at most so many values as a percentile needs."""
    some = list(values)
    for value in some[:: max(1, len(some) // _MOST)]:
        histogram.observe(value, tags)


def show(meters: Meters, found: WatchAnswer, trial: TrialAnswer | None) -> None:
    """Sets the gauges."""
    meters.gateways.set(found.gateways)
    meters.in_flight.set(found.in_flight)
    meters.remembered.set(found.remembered_candidates)
    for model, queue in found.queues.items():
        meters.queue.set(queue.now, {"model": model, "figure": "now"})
        meters.queue.set(queue.peak, {"model": model, "figure": "peak"})
    if found.newest_item_s is not None:
        meters.newest.set(found.newest_item_s)
    aborted = trial is not None and trial.state == "aborted"
    meters.aborted.set(float(aborted))
    meters.share.set(0.0 if trial is None or aborted else trial.share)
    if found.shadow is not None and found.shadow.mean_absolute_difference is not None:
        meters.difference.set(found.shadow.mean_absolute_difference)
    _show_arm(meters, "champion", found.champion)
    if found.challenger is not None:
        _show_arm(meters, "challenger", found.challenger)


def _show_arm(meters: Meters, role: str, arm: ArmFigures) -> None:
    meters.release.set(1.0, {"arm": role, "release": arm.release})
    if arm.mean_score is not None:
        meters.score.set(arm.mean_score, {"arm": role})
    for reference, shift in arm.drift.items():
        if shift is not None:
            meters.drift.set(shift, {"arm": role, "reference": reference})
    for vector, found in arm.calibration.items():
        tags = {"arm": role, "vector": vector}
        meters.labelled.set(found.rows, tags)
        for gauge, value in (
            (meters.predicted, found.predicted),
            (meters.observed, found.observed),
            (meters.calibration, found.error),
        ):
            if value is not None:
                gauge.set(value, tags)
    if role == "champion" and arm.earned is not None:
        for figure in ("cosine", "ceiling", "chance"):
            meters.earned.set(getattr(arm.earned, figure), {"figure": figure})
