"""Whether and when a call is retried; both clients share this part, which does no network I/O.

The pause before the n-th retry is uniform in `[0, base * 2 ** n]` ("full jitter", Brooker, "Exponential backoff and
jitter", AWS Architecture Blog, 2015), so that callers that failed together do not return together. It is never shorter
than the server's `Retry-After`.
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

from coldstart.client.connection import CALLER_ERRORS, HttpResponse
from coldstart.client.errors import (
    BusyError,
    CallError,
    DeadlineExceededError,
    InvalidResponseError,
    RequestRejectedError,
    UnreachableError,
)
from coldstart.serving.api.schemas import ErrorResponse

ResponseT = TypeVar("ResponseT")
RETRYABLE_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of failures that may be temporary; a replica that dies causes a 500."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long a client retries.

    Attributes:
        max_retries: Maximum retries of one call; 0 sends each call once.
        backoff_base_s: Maximum of the first pause, s; it doubles with every retry.
        backoff_max_s: Maximum pause, s; a server's `Retry-After` may be longer.
        attempt_timeout_s: Timeout of one attempt, s, so that a lost request is retried before the deadline.
    """

    max_retries: int = 6
    backoff_base_s: float = 0.05
    backoff_max_s: float = 2.0
    attempt_timeout_s: float = 10.0


@dataclass
class CallCounts:
    """The calls of a client so far.

    Attributes:
        calls: Finished calls.
        failed: Finished calls that raised an exception.
        retries: Reason (a status, or the name of a network error) -> number of retries.
    """

    calls: int = 0
    failed: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)

    @property
    def retried(self) -> int:
        """Retries for all reasons."""
        return sum(self.retries.values())


class CallStats:
    """Counts the calls of a client; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls, self._failed, self._retries = 0, 0, Counter[str]()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts the call inside the block."""
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._lock:
                self._calls += 1
                self._failed += failed

    def retried(self, reason: str) -> None:
        """Counts a retry."""
        with self._lock:
            self._retries[reason] += 1

    def counts(self) -> CallCounts:
        """The counts so far."""
        with self._lock:
            return CallCounts(self._calls, self._failed, dict(self._retries))


class CallAttempts:
    """The attempts of one call.

    Args:
        call: Method and path, for messages.
        retries: The policy.
        deadline_s: For all attempts and pauses together, s.
        stats: Counts every retry.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        call: str,
        *,
        retries: RetryPolicy,
        deadline_s: float,
        stats: CallStats,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.call, self.retries, self.stats, self._clock = call, retries, stats, clock
        self.deadline_s, self._end = deadline_s, clock() + deadline_s
        self.sent = 0

    def start(self) -> float:
        """Starts the next attempt and returns its timeout, s."""
        self.sent += 1
        return max(min(self.retries.attempt_timeout_s, self._end - self._clock()), 0.001)

    def on_response(self, response: HttpResponse) -> float | None:
        """Returns `None` for a success, else the pause before the next attempt, s.

        Raises:
            CallError: the response is a failure and no retry follows.
        """
        status = response.status
        if 200 <= status < 300:
            return None
        code, message = _error_of(response)
        if status not in RETRYABLE_STATUSES:
            raise RequestRejectedError(self.call, self.sent, code, message, status)
        failure = BusyError(self.call, self.sent, code, message, status)
        return self._next_pause(str(status), failure, wait=_retry_after(response.headers.get("retry-after", "")))

    def decode(self, decode: Callable[[bytes], ResponseT], response: HttpResponse) -> ResponseT:
        """Converts the response.

        Raises:
            InvalidResponseError: the body has a shape that this version of the client does not know.
        """
        try:
            return decode(response.body)
        except ValueError as error:
            message = str(error)
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False, include_input=False)[0]
                field_path = ".".join(str(part) for part in first["loc"]) or "body"
                message = f"{field_path}: {first['msg']}"
            raise InvalidResponseError(self.call, self.sent, "invalid_response", message, response.status) from error

    def on_transport_error(self, error: httpx.RequestError | TimeoutError) -> float:
        """Returns the pause before the next attempt, s, after an attempt without a response.

        Raises:
            CallError: no retry follows.
        """
        message = str(error) or type(error).__name__
        failure = UnreachableError(self.call, self.sent, "unreachable", message)
        if isinstance(error, CALLER_ERRORS):
            raise failure
        return self._next_pause(type(error).__name__, failure)

    def _next_pause(self, reason: str, failure: CallError, *, wait: float = 0.0) -> float:
        remaining = self._end - self._clock()
        if remaining <= 0:
            raise DeadlineExceededError(
                self.call,
                self.sent,
                failure.code,
                f"deadline of {self.deadline_s:g} s exceeded: {failure.message}",
                failure.status,
            )
        pause = max(
            random.uniform(0, min(self.retries.backoff_base_s * 2 ** (self.sent - 1), self.retries.backoff_max_s)), wait
        )
        # Fail now rather than sleep until the deadline and fail then.
        if self.sent > self.retries.max_retries or pause >= remaining:
            raise failure
        self.stats.retried(reason)
        return pause


def _error_of(response: HttpResponse) -> tuple[str, str]:
    """The server's code and message; a proxy in between may respond in another format."""
    try:
        error = ErrorResponse.model_validate_json(response.body).error
    except ValidationError:
        return "http_error", response.body[:200].decode(errors="replace").strip() or "no explanation"
    return error.code, error.message


def _retry_after(header: str) -> float:
    """Seconds from a header that contains seconds or a date; 0 if there is none."""
    if header.isdecimal():
        return float(header)
    try:
        return max((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
