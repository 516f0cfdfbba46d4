"""What a gateway sees of its own work. A request costs it one append; everything else is done once a second."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from coldstart.config.recipe import Serving
from coldstart.serving.answers import Answers
from coldstart.serving.errors import ApiError
from coldstart.serving.figures import (
    MOST,
    PROBABILITIES,
    SECONDS,
    SIZES,
    Depth,
    Figures,
    Recent,
    Sums,
    binned,
    calibration_sums,
)
from coldstart.serving.meters import Meters, observe
from coldstart.serving.request_id import Incoming
from coldstart.serving.schemas import VECTORS, Feedback, Vector
from coldstart.serving.trial import side
from coldstart.serving.watch_answers import FOUND, MODELS, Model

Note = TypeVar("Note")
Key = TypeVar("Key", bound=Hashable)
Role = Literal["champion", "challenger"]
OUTCOMES = ("ok", "refused", "failed")
LIVE_S = 60.0
"""Latencies and rates are of the last minute."""
_PENDING = 20_000
_KNOWN = 50_000


class Ranked(NamedTuple):
    """One request that an arm answered, or did not.

    Attributes:
        role: Of the arm.
        release: Its name.
        seconds: How long it took.
        outcome: One of OUTCOMES.
        judged: Whether it counts in the trial.
        incoming: The HTTP request it came with.
        user_id: Who asked.
        items: Candidates.
        scores: Given.
        vectors: What stood for the candidates.
    """

    role: Role
    release: str
    seconds: float
    outcome: str
    judged: bool
    incoming: Incoming
    user_id: str | None = None
    items: Sequence[str | None] = ()
    scores: Sequence[float] = ()
    vectors: Sequence[Vector] = ()


class Shadowed(NamedTuple):
    """Scores of both for one request that only the champion answered."""

    release: str
    champion: Sequence[float]
    challenger: Sequence[float]


class Posted(NamedTuple):
    """Feedback as it came, which tells what is sent again from what happened again.

    Attributes:
        post: Id of the HTTP request: whoever sends one again, HAProxy or a client, leaves it as it is.
        place: Among the events of that request.
        event: What it says.
    """

    post: str
    place: int
    event: Feedback


class Watch:
    """Counts and remembers for one gateway.

    Args:
        settings: The recipe's section.
        trial: Number of the trial it counts for, if there is one.

    Attributes:
        queues: What a model was asked by this gateway and has not answered.
    """

    def __init__(self, settings: Serving, trial: str | None) -> None:
        self.meters = Meters()
        self.answers = Answers(settings.watch.remembered_rows)
        self.in_flight = 0
        self.queues: dict[Model, Depth] = {model: Depth() for model in MODELS}
        self._settings, self._trial = settings, trial
        self._ranked: list[Ranked] = []
        self._shadowed: list[Shadowed] = []
        self._stages: list[tuple[str, float]] = []
        self._batches: list[tuple[Model, int]] = []
        self._published: list[float] = []
        self._newest_at: float | None = None
        self._feedback: deque[Posted] = deque()
        self._known: OrderedDict[Posted, None] = OrderedDict()
        self._recent: dict[str, Recent] = {}
        self._first: dict[str, Sums] = {}
        self._began = time.monotonic()

    def stage(self, name: str, seconds: float) -> None:
        """A stage of a request took so long."""
        self._stages.append((name, seconds))

    def batch(self, model: Model, size: int) -> None:
        """A model has done so many asks in one pass."""
        self._batches.append((model, size))

    def held(self, newest_at: float | None, delays_s: Sequence[float]) -> None:
        """Proxies were taken in so long after they were stored, the newest at that moment."""
        self._newest_at = newest_at
        if delays_s:
            observe(self.meters.taken_in, delays_s, {})
            self._add("taken_in", binned(delays_s, SECONDS), LIVE_S)

    def ranked(self, note: Ranked) -> None:
        """An arm was asked."""
        self._ranked.append(note)

    def shadowed(self, note: Shadowed) -> None:
        """A challenger has scored unseen what the champion answered."""
        self._shadowed.append(note)

    def skipped(self, release: str) -> None:
        """A challenger was too slow to be asked."""
        self.meters.skipped.inc()
        self._add(f"skipped|{release}", np.ones(1), self._settings.watch.window_s)

    def published(self, seconds: float, items: int) -> None:
        """So many items are rankable so long after they came in."""
        self._published.extend([seconds] * items)

    def feedback(self, post: str, events: Sequence[Feedback]) -> None:
        """Takes feedback; what came before in the same request, sent again, counts once.

        Args:
            post: Id of the HTTP request.
            events: All of that request.

        Raises:
            ApiError: 429, more waits than is worth keeping.
        """
        if len(self._feedback) + len(events) > _PENDING:
            raise ApiError(429, "busy", "too much feedback is waiting; try again", retry_after=1)
        posted = self._unknown([Posted(post, place, event) for place, event in enumerate(events)])
        if posted:
            self._feedback.extend(posted)
            self.meters.feedback.inc(len(posted), {"outcome": "received"})
            self._add("feedback", np.array([len(posted), 0.0]), self._settings.watch.window_s)

    def hear(self, letters: Sequence[Posted]) -> None:
        """Joins feedback that another gateway could not place."""
        self._place(self._unknown(letters))

    def tally(self, fixed: set[str]) -> list[Posted]:
        """Counts what came since the last time.

        Args:
            fixed: Releases whose first scores are known well enough.

        Returns:
            Feedback on answers that this gateway does not remember.
        """
        ranked, self._ranked = self._ranked, []
        self._count_requests(ranked)
        self._count_scores([note for note in ranked if note.outcome == "ok"], fixed)
        self._count_stages()
        self._count_batches()
        for queue in self.queues.values():
            queue.turn()
        shadowed, self._shadowed = self._shadowed, []
        for note in shadowed:
            gap = np.asarray(note.challenger, np.float64) - np.asarray(note.champion, np.float64)
            self._add(
                f"shadow|{note.release}",
                np.array([len(gap), gap.sum(), np.abs(gap).sum()]),
                self._settings.watch.window_s,
            )
        events, self._feedback = list(self._feedback), deque()
        return self._place(events)

    def _unknown(self, posted: Sequence[Posted]) -> list[Posted]:
        """What has not come before, as far back as is remembered."""
        new = [one for one in posted if one not in self._known]
        self._known.update(dict.fromkeys(new))
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return new

    def _place(self, events: Sequence[Posted]) -> list[Posted]:
        """Joins feedback with the scores it is about; returns that of answers not remembered here."""
        strangers: list[Posted] = []
        joined: dict[tuple[str, Vector], list[tuple[int, float]]] = {}
        for posted in events:
            scores = self.answers.find(posted.event)
            for found in scores:
                joined.setdefault((found.release, found.vector), []).append((posted.event.label, found.score))
            if not scores:
                strangers.append(posted)
        placed = len(events) - len(strangers)
        if placed:
            self._add("feedback", np.array([0.0, placed]), self._settings.watch.window_s)
            self.meters.feedback.inc(placed, {"outcome": "joined"})
        for (release, vector), pairs in joined.items():
            sums = calibration_sums(*zip(*pairs, strict=True))
            self._add(f"calibration|{release}|{vector}", sums, self._settings.watch.window_s)
        return strangers

    def figures(self) -> Figures:
        """All there is to tell, to be added to that of other gateways."""
        now = time.monotonic()
        figures = {name: recent.sums(now) for name, recent in self._recent.items()}
        figures |= {f"first|{release}": counts for release, counts in self._first.items()}
        figures["present"] = np.array([self.in_flight, self.answers.rows], np.float64)
        figures |= {f"queue|{model}": queue.sums() for model, queue in self.queues.items()}
        if self._newest_at is not None:
            figures[f"{MOST}age"] = np.array([max(time.time() - self._newest_at, 0.0)])
        return figures

    @property
    def age_s(self) -> float:
        """How long it has counted."""
        return time.monotonic() - self._began

    def _count_requests(self, ranked: list[Ranked]) -> None:
        for (role, release), notes in _grouped(ranked, lambda note: (note.role, note.release)).items():
            outcomes = [note.outcome for note in notes]
            counts = np.array([outcomes.count(outcome) for outcome in OUTCOMES], np.float64)
            for outcome, count in zip(OUTCOMES, counts, strict=True):
                if count:
                    self.meters.requests.inc(count, {"arm": role, "outcome": outcome})
            seconds = [note.seconds for note in notes]
            observe(self.meters.seconds, seconds, {"arm": role})
            self._add(f"requests|{release}", counts, LIVE_S)
            self._add(f"latency|{release}", binned(seconds, SECONDS), LIVE_S)
            judged = [note for note in notes if note.judged and note.outcome != "refused"]
            if self._trial and judged:
                failed = sum(note.outcome == "failed" for note in judged)
                vector = side([note.seconds for note in judged], failed)
                self._add(f"trial|{self._trial}|{role}", vector, self._settings.challenger.window_s)

    def _count_scores(self, ranked: list[Ranked], fixed: set[str]) -> None:
        for (role, release), notes in _grouped(ranked, lambda note: (note.role, note.release)).items():
            scores = np.concatenate([np.asarray(note.scores, np.float64) for note in notes])
            counts = binned(scores, PROBABILITIES)
            self._add(f"scores|{release}", counts, self._settings.watch.window_s)
            self._add(f"mean|{release}", np.array([len(scores), scores.sum()]), self._settings.watch.window_s)
            if release in fixed:
                self._first.pop(release, None)
            else:
                self._first[release] = self._first.get(release, np.zeros(len(counts))) + counts
            kinds = [vector for note in notes for vector in note.vectors]
            shares = np.array([kinds.count(vector) for vector in VECTORS], np.float64)
            self._add(f"vectors|{release}", shares, LIVE_S)
            for vector, count in zip(VECTORS, shares, strict=True):
                if count:
                    self.meters.candidates.inc(count, {"arm": role, "vector": vector})
            by_content = sum(list(note.items).count(None) for note in notes)
            found = dict(zip(VECTORS, shares, strict=True))
            lookups = np.array([found["id"], found["fine"] + found["blend"] - by_content, found["oov"]])
            self._add(f"lookups|{release}", lookups, LIVE_S)
            for what, count in zip(FOUND, lookups, strict=True):
                if count:
                    self.meters.lookups.inc(count, {"arm": role, "found": what})
            for note in notes:
                self.answers.keep(
                    note.incoming.request_id, note.user_id, release, note.items, note.scores, note.vectors
                )

    def _count_stages(self) -> None:
        stages, self._stages = self._stages, []
        for name, pairs in _grouped(stages, lambda pair: pair[0]).items():
            seconds = [pair[1] for pair in pairs]
            observe(self.meters.stages, seconds, {"stage": name})
            self._add(f"stage|{name}", binned(seconds, SECONDS), LIVE_S)
        published, self._published = self._published, []
        if published:
            observe(self.meters.publish, published, {})
            self._add("publish", binned(published, SECONDS), LIVE_S)

    def _count_batches(self) -> None:
        batches, self._batches = self._batches, []
        for model, pairs in _grouped(batches, lambda pair: pair[0]).items():
            sizes = [size for _, size in pairs]
            observe(self.meters.batches, sizes, {"model": model})
            self._add(f"batch|{model}", np.append(binned(sizes, SIZES), sum(sizes)), LIVE_S)

    def _add(self, name: str, vector: Sums, window_s: float) -> None:
        recent = self._recent.get(name)
        if recent is None:
            recent = self._recent[name] = Recent(len(vector), window_s)
        recent.add(time.monotonic(), vector)


def _grouped(notes: Sequence[Note], key: Callable[[Note], Key]) -> dict[Key, list[Note]]:
    groups: dict[Key, list[Note]] = {}
    for note in notes:
        groups.setdefault(key(note), []).append(note)
    return groups
