"""Collects the statistics of one gateway. A request costs one list append; the rest is computed once a second."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from coldstart.config.recipe import Serving
from coldstart.serving.ab_test.experiment import variant_sums
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.request_id import RequestContext
from coldstart.serving.api.schemas import SLOT_SOURCES, Feedback, SlotSource
from coldstart.serving.monitoring.feedback_buffer import FeedbackBuffer
from coldstart.serving.monitoring.prometheus import Metrics, observe
from coldstart.serving.monitoring.stats_schemas import LOOKUP_RESULTS, MODELS, Model
from coldstart.serving.monitoring.window_stats import (
    BATCH_SIZE_EDGES,
    LATENCY_EDGES_S,
    MAX_PREFIX,
    SCORE_EDGES,
    QueueDepth,
    SlidingWindowSum,
    Sums,
    WindowStats,
    bin_counts,
    calibration_sums,
)

Record = TypeVar("Record")
Key = TypeVar("Key", bound=Hashable)
VariantName = Literal["champion", "challenger"]
OUTCOMES = ("ok", "refused", "failed")
LIVE_WINDOW_S = 60.0
"""Window of latencies and rates."""
_MAX_PENDING = 20_000
_MAX_SEEN = 50_000


class RankRecord(NamedTuple):
    """One rank request to a release server.

    Attributes:
        variant: Variant that the release is.
        release: Name of the release.
        seconds: Latency.
        outcome: One of OUTCOMES.
        in_ab_test: Whether the A/B test counts it.
        incoming: The HTTP request.
        user_id: Id of the user.
        items: Candidate ids; `None` for candidates given by content.
        scores: Click probabilities of the candidates; empty after a failure.
        slot_sources: Source of each candidate's item vector.
    """

    variant: VariantName
    release: str
    seconds: float
    outcome: str
    in_ab_test: bool
    incoming: RequestContext
    user_id: str | None = None
    items: Sequence[str | None] = ()
    scores: Sequence[float] = ()
    slot_sources: Sequence[SlotSource] = ()


class ShadowRecord(NamedTuple):
    """Scores of both variants for a request that the champion answered."""

    release: str
    champion: Sequence[float]
    challenger: Sequence[float]


class FeedbackRecord(NamedTuple):
    """Feedback with its origin, to tell a request that is sent twice from an event that happens twice.

    Attributes:
        request_id: Id of the HTTP request; HAProxy and clients keep it when they send a request again.
        position: Position among the events of that request.
        feedback: The event.
    """

    request_id: str
    position: int
    feedback: Feedback


class StatsCollector:
    """Counts the requests of one gateway, and keeps scores until feedback on them arrives.

    Args:
        settings: The recipe's `serving` section.
        ab_test_id: Id of the running A/B test, if any.

    Attributes:
        queues: Calls of this gateway that each model has not answered yet.
    """

    def __init__(self, settings: Serving, ab_test_id: str | None) -> None:
        self.metrics = Metrics()
        self.feedback_buffer = FeedbackBuffer(settings.stats.feedback_buffer_rows)
        self.in_flight = 0
        self.queues: dict[Model, QueueDepth] = {model: QueueDepth() for model in MODELS}
        self._settings, self._ab_test_id = settings, ab_test_id
        self._ranked: list[RankRecord] = []
        self._shadowed: list[ShadowRecord] = []
        self._stages: list[tuple[str, float]] = []
        self._batches: list[tuple[Model, int]] = []
        self._published: list[float] = []
        self._newest_at: float | None = None
        self._feedback: deque[FeedbackRecord] = deque()
        self._seen: OrderedDict[FeedbackRecord, None] = OrderedDict()
        self._windows: dict[str, SlidingWindowSum] = {}
        self._initial: dict[str, Sums] = {}
        self._started_at = time.monotonic()

    def record_stage(self, name: str, seconds: float) -> None:
        """Records the duration of one stage of a request."""
        self._stages.append((name, seconds))

    def record_batch(self, model: Model, size: int) -> None:
        """Records how many inputs a model processed in one forward pass."""
        self._batches.append((model, size))

    def record_proxies_loaded(self, newest_at: float | None, delays_s: Sequence[float]) -> None:
        """Records how long after its storage each proxy was loaded, and when the newest one was stored."""
        self._newest_at = newest_at
        if delays_s:
            observe(self.metrics.proxy_propagation, delays_s, {})
            self._add("proxy_propagation", bin_counts(delays_s, LATENCY_EDGES_S), LIVE_WINDOW_S)

    def record_rank(self, record: RankRecord) -> None:
        """Records a rank request."""
        self._ranked.append(record)

    def record_shadow(self, record: ShadowRecord) -> None:
        """Records the scores of a shadow request."""
        self._shadowed.append(record)

    def record_shadow_skipped(self, release: str) -> None:
        """Counts a request that was not sent to a challenger because too many shadow requests were in flight."""
        self.metrics.skipped.inc()
        self._add(f"skipped|{release}", np.ones(1), self._settings.stats.window_s)

    def record_publish(self, seconds: float, items: int) -> None:
        """Records how long after the request its items were rankable."""
        self._published.extend([seconds] * items)

    def add_feedback(self, request_id: str, events: Sequence[Feedback]) -> None:
        """Queues feedback; a request that is sent twice counts once.

        Args:
            request_id: Id of the HTTP request.
            events: All events of that request.

        Raises:
            ApiError: 429, too many events are waiting.
        """
        if len(self._feedback) + len(events) > _MAX_PENDING:
            raise ApiError(429, "busy", "too much feedback is waiting; try again", retry_after=1)
        records = self._deduplicate([FeedbackRecord(request_id, at, event) for at, event in enumerate(events)])
        if records:
            self._feedback.extend(records)
            self.metrics.feedback.inc(len(records), {"outcome": "received"})
            self._add("feedback", np.array([len(records), 0.0]), self._settings.stats.window_s)

    def join_forwarded_feedback(self, records: Sequence[FeedbackRecord]) -> None:
        """Joins feedback that another gateway forwarded, as far as the scores are in this buffer."""
        self._join(self._deduplicate(records))

    def flush(self, fixed: set[str]) -> list[FeedbackRecord]:
        """Counts everything recorded since the last call.

        Args:
            fixed: Releases whose initial score distribution is complete.

        Returns:
            Feedback on scores that are not in this gateway's buffer.
        """
        ranked, self._ranked = self._ranked, []
        self._count_requests(ranked)
        self._count_scores([record for record in ranked if record.outcome == "ok"], fixed)
        self._count_stages()
        self._count_batches()
        for queue in self.queues.values():
            queue.tick()
        shadowed, self._shadowed = self._shadowed, []
        for record in shadowed:
            gap = np.asarray(record.challenger, np.float64) - np.asarray(record.champion, np.float64)
            self._add(
                f"shadow|{record.release}",
                np.array([len(gap), gap.sum(), np.abs(gap).sum()]),
                self._settings.stats.window_s,
            )
        feedback, self._feedback = list(self._feedback), deque()
        return self._join(feedback)

    def _deduplicate(self, records: Sequence[FeedbackRecord]) -> list[FeedbackRecord]:
        """The records that are not among the latest _MAX_SEEN."""
        new = [record for record in records if record not in self._seen]
        self._seen.update(dict.fromkeys(new))
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return new

    def _join(self, records: Sequence[FeedbackRecord]) -> list[FeedbackRecord]:
        """Joins feedback with its scores; returns the records without a score in the buffer."""
        unmatched: list[FeedbackRecord] = []
        joined: dict[tuple[str, SlotSource], list[tuple[int, float]]] = {}
        for record in records:
            scores = self.feedback_buffer.match(record.feedback)
            for found in scores:
                joined.setdefault((found.release, found.slot_source), []).append((record.feedback.label, found.score))
            if not scores:
                unmatched.append(record)
        matched = len(records) - len(unmatched)
        if matched:
            self._add("feedback", np.array([0.0, matched]), self._settings.stats.window_s)
            self.metrics.feedback.inc(matched, {"outcome": "joined"})
        for (release, source), pairs in joined.items():
            sums = calibration_sums(*zip(*pairs, strict=True))
            self._add(f"calibration|{release}|{source}", sums, self._settings.stats.window_s)
        return unmatched

    def window_stats(self) -> WindowStats:
        """Current statistics, which `merge` adds to those of other gateways."""
        now = time.monotonic()
        stats = {name: window.sums(now) for name, window in self._windows.items()}
        stats |= {f"initial|{release}": counts for release, counts in self._initial.items()}
        stats["present"] = np.array([self.in_flight, self.feedback_buffer.rows], np.float64)
        stats |= {f"queue|{model}": queue.sums() for model, queue in self.queues.items()}
        if self._newest_at is not None:
            stats[f"{MAX_PREFIX}age"] = np.array([max(time.time() - self._newest_at, 0.0)])
        return stats

    @property
    def uptime_s(self) -> float:
        """Seconds since the collector was created."""
        return time.monotonic() - self._started_at

    def _count_requests(self, ranked: list[RankRecord]) -> None:
        for (variant, release), records in _grouped(ranked, lambda record: (record.variant, record.release)).items():
            outcomes = [record.outcome for record in records]
            counts = np.array([outcomes.count(outcome) for outcome in OUTCOMES], np.float64)
            for outcome, count in zip(OUTCOMES, counts, strict=True):
                if count:
                    self.metrics.requests.inc(count, {"variant": variant, "outcome": outcome})
            seconds = [record.seconds for record in records]
            observe(self.metrics.seconds, seconds, {"variant": variant})
            self._add(f"requests|{release}", counts, LIVE_WINDOW_S)
            self._add(f"latency|{release}", bin_counts(seconds, LATENCY_EDGES_S), LIVE_WINDOW_S)
            tested = [record for record in records if record.in_ab_test and record.outcome != "refused"]
            if self._ab_test_id and tested:
                failed = sum(record.outcome == "failed" for record in tested)
                vector = variant_sums([record.seconds for record in tested], failed)
                self._add(f"ab_test|{self._ab_test_id}|{variant}", vector, self._settings.challenger.window_s)

    def _count_scores(self, ranked: list[RankRecord], fixed: set[str]) -> None:
        for (variant, release), records in _grouped(ranked, lambda record: (record.variant, record.release)).items():
            scores = np.concatenate([np.asarray(record.scores, np.float64) for record in records])
            counts = bin_counts(scores, SCORE_EDGES)
            self._add(f"scores|{release}", counts, self._settings.stats.window_s)
            self._add(f"mean|{release}", np.array([len(scores), scores.sum()]), self._settings.stats.window_s)
            if release in fixed:
                self._initial.pop(release, None)
            else:
                self._initial[release] = self._initial.get(release, np.zeros(len(counts))) + counts
            sources = [source for record in records for source in record.slot_sources]
            source_counts = np.array([sources.count(source) for source in SLOT_SOURCES], np.float64)
            self._add(f"slot_sources|{release}", source_counts, LIVE_WINDOW_S)
            for source, count in zip(SLOT_SOURCES, source_counts, strict=True):
                if count:
                    self.metrics.candidates.inc(count, {"variant": variant, "slot_source": source})
            by_content = sum(list(record.items).count(None) for record in records)
            found = dict(zip(SLOT_SOURCES, source_counts, strict=True))
            lookups = np.array([found["id"], found["proxy"] + found["blended"] - by_content, found["oov"]])
            self._add(f"lookups|{release}", lookups, LIVE_WINDOW_S)
            for result, count in zip(LOOKUP_RESULTS, lookups, strict=True):
                if count:
                    self.metrics.lookups.inc(count, {"variant": variant, "result": result})
            for record in records:
                self.feedback_buffer.add(
                    record.incoming.request_id,
                    record.user_id,
                    release,
                    record.items,
                    record.scores,
                    record.slot_sources,
                )

    def _count_stages(self) -> None:
        stages, self._stages = self._stages, []
        for name, pairs in _grouped(stages, lambda pair: pair[0]).items():
            seconds = [pair[1] for pair in pairs]
            observe(self.metrics.stages, seconds, {"stage": name})
            self._add(f"stage|{name}", bin_counts(seconds, LATENCY_EDGES_S), LIVE_WINDOW_S)
        published, self._published = self._published, []
        if published:
            observe(self.metrics.publish, published, {})
            self._add("publish", bin_counts(published, LATENCY_EDGES_S), LIVE_WINDOW_S)

    def _count_batches(self) -> None:
        batches, self._batches = self._batches, []
        for model, pairs in _grouped(batches, lambda pair: pair[0]).items():
            sizes = [size for _, size in pairs]
            observe(self.metrics.batches, sizes, {"model": model})
            self._add(f"batch|{model}", np.append(bin_counts(sizes, BATCH_SIZE_EDGES), sum(sizes)), LIVE_WINDOW_S)

    def _add(self, name: str, vector: Sums, window_s: float) -> None:
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = SlidingWindowSum(len(vector), window_s)
        window.add(time.monotonic(), vector)


def _grouped(records: Sequence[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
