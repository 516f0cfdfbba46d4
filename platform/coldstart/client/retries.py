"""Whether and when a call is sent again: the part that the two clients share, and that does not touch the network.

The pause before the n-th retry is drawn evenly from `[0, base * 2 ** n]` ("full jitter", Brooker, "Exponential backoff
and jitter", AWS Architecture Blog, 2015), so that callers refused at one moment do not come back at one moment; never
shorter than the server's `Retry-After`.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import httpx
from pydantic import ValidationError

from coldstart.client.connection import USELESS, Reply
from coldstart.client.errors import (
    BusyError,
    CallError,
    DeadlineError,
    RefusedError,
    UnreachableError,
    UnusableAnswerError,
)
from coldstart.serving.schemas import ErrorAnswer

Answer = TypeVar("Answer")
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that another attempt may not meet: 500 is among them because that is what a replica leaves that dies."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How persistent a client is.

    Attributes:
        most: Retries of one call at most; 0 sends everything once.
        base_s: Longest first pause, s; it doubles with every retry.
        cap_s: Longest pause of the client's own, s; a server's `Retry-After` may be longer.
        attempt_s: Longest wait for one attempt, s: a lost request is sent again before the whole deadline is gone.
    """

    most: int = 6
    base_s: float = 0.05
    cap_s: float = 2.0
    attempt_s: float = 10.0


@dataclass
class Counts:
    """What a client did so far.

    Attributes:
        calls: Calls that ended, in an answer or not.
        failed: Of those, the ones that ended in an exception.
        retries: Reason (a status, or the name of a network error) -> attempts sent again because of it.
    """

    calls: int = 0
    failed: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)

    @property
    def retried(self) -> int:
        """Attempts sent again, for whatever reason."""
        return sum(self.retries.values())


class Tally:
    """Counts of a client, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls, self._failed, self._retries = 0, 0, Counter[str]()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call."""
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._lock:
                self._calls += 1
                self._failed += failed

    def retried(self, reason: str) -> None:
        """One attempt follows because of `reason`."""
        with self._lock:
            self._retries[reason] += 1

    def counts(self) -> Counts:
        """As they stand."""
        with self._lock:
            return Counts(self._calls, self._failed, dict(self._retries))


class Attempts:
    """The attempts of one call; the server may do twice whatever it is asked to.

    Args:
        call: Method and path, for messages.
        retries: How often.
        deadline_s: For all attempts and pauses together, s.
        tally: Told of every retry.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        call: str,
        *,
        retries: Retries,
        deadline_s: float,
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.call, self.retries, self.tally, self._clock = call, retries, tally, clock
        self.deadline_s, self._end = deadline_s, clock() + deadline_s
        self.sent = 0

    def begin(self) -> float:
        """Opens the next attempt and returns how long it may take, s."""
        self.sent += 1
        return max(min(self.retries.attempt_s, self._end - self._clock()), 0.001)

    def answered(self, reply: Reply) -> float | None:
        """None if this is the answer, else the pause before the next attempt, s.

        Raises:
            CallError: it is neither, and no attempt follows.
        """
        status = reply.status
        if 200 <= status < 300:
            return None
        code, message = _problem(reply)
        if status not in PASSING:
            raise RefusedError(self.call, self.sent, code, message, status)
        failure = BusyError(self.call, self.sent, code, message, status)
        return self._pause(str(status), failure, wait=_retry_after(reply.headers.get("retry-after", "")))

    def read(self, reader: Callable[[bytes], Answer], reply: Reply) -> Answer:
        """The answer, typed.

        Raises:
            UnusableAnswerError: it has another shape than this version of the client knows.
        """
        try:
            return reader(reply.body)
        except ValueError as error:
            message = str(error)
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(str(part) for part in first["loc"]) or "body"
                message = f"{where}: {first['msg']}"
            raise UnusableAnswerError(self.call, self.sent, "unusable_answer", message, reply.status) from error

    def lost(self, error: httpx.RequestError | TimeoutError) -> float:
        """The pause before the next attempt after one without an answer, s.

        Raises:
            CallError: no attempt follows.
        """
        why = str(error) or type(error).__name__
        failure = UnreachableError(self.call, self.sent, "unreachable", why)
        if isinstance(error, USELESS):
            raise failure
        return self._pause(type(error).__name__, failure)

    def _pause(self, reason: str, failure: CallError, *, wait: float = 0.0) -> float:
        left = self._end - self._clock()
        if left <= 0:
            raise DeadlineError(
                self.call, self.sent, failure.code, f"{self.deadline_s:g} s are over: {failure.message}", failure.status
            )
        pause = max(random.uniform(0, min(self.retries.base_s * 2 ** (self.sent - 1), self.retries.cap_s)), wait)
        # To sleep until the deadline and then fail helps nobody.
        if self.sent > self.retries.most or pause >= left:
            raise failure
        self.tally.retried(reason)
        return pause


def _problem(reply: Reply) -> tuple[str, str]:
    """The server's code and message; something in between may answer in its own words."""
    try:
        problem = ErrorAnswer.model_validate_json(reply.body).error
    except ValidationError:
        return "http_error", reply.body[:200].decode(errors="replace").strip() or "no explanation"
    return problem.code, problem.message


def _retry_after(given: str) -> float:
    """Seconds, which a server gives as such or as a moment; 0 if it gives none."""
    if given.isdecimal():
        return float(given)
    try:
        return max((parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
