"""The client for programs with threads."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from coldstart.client import calls
from coldstart.client.calls import Call
from coldstart.client.connection import Bearer, Reply, Token, limits
from coldstart.client.retries import Answer, Attempts, Counts, Retries, Tally
from coldstart.serving.schemas import (
    Feedback,
    FeedbackAnswer,
    HealthAnswer,
    ItemAnswer,
    NeighboursAnswer,
    PublishAnswer,
    PublishAnswers,
    PublishRequest,
    RankAnswer,
    RankAnswers,
    RankRequest,
    RankRequests,
    ReleaseAnswer,
    WithdrawAnswer,
)
from coldstart.serving.watch_answers import WatchAnswer

if TYPE_CHECKING:
    import pyarrow as pa


class Client:
    """Calls a server; threads may share one.

    Args:
        url: Of the server, without a path of the API.
        token: Bearer token, or what gives it anew for each attempt, so that it can be rotated.
        deadline_s: For a call with all its retries, s; every method takes its own, too.
        retries: How persistent to be.
        connections: Most connections at a time; further calls wait for one.
        transport: In place of the network.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        deadline_s: float = 30.0,
        retries: Retries | None = None,
        connections: int = 100,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.deadline_s, self.retries, self._tally = deadline_s, retries or Retries(), Tally()
        self._http = httpx.Client(base_url=url, auth=Bearer(token), limits=limits(connections), transport=transport)

    def rank(self, request: RankRequest, *, deadline_s: float | None = None) -> RankAnswer:
        """Scores candidates for a user."""
        return self._answer(calls.rank(request), deadline_s)

    def rank_many(self, request: RankRequests, *, deadline_s: float | None = None) -> RankAnswers:
        """Scores candidates for several users, in one request."""
        return self._answer(calls.rank_many(request), deadline_s)

    def rank_arrow(self, users: "pa.RecordBatch", *, deadline_s: float | None = None) -> "pa.RecordBatch":
        """Scores candidates for several users, a row each, in the Arrow form: for many users a fifth of the work."""
        return self._answer(calls.rank_arrow(users), deadline_s)

    def publish(self, request: PublishRequest, *, deadline_s: float | None = None) -> PublishAnswer:
        """Publishes an item, or replaces its content; on return it can be ranked, and survives a crash."""
        return self._answer(calls.publish(request), deadline_s)

    def publish_many(self, items: Iterable[PublishRequest], *, deadline_s: float | None = None) -> PublishAnswers:
        """Publishes items; each has an outcome of its own, so look at `failed`."""
        return self._answer(calls.publish_many(items), deadline_s)

    def item(self, item_id: str, *, deadline_s: float | None = None) -> ItemAnswer:
        """What is known of an item, and what stands for it when it is ranked."""
        return self._answer(calls.item(item_id), deadline_s)

    def neighbours(self, item_id: str, k: int = 10, *, deadline_s: float | None = None) -> NeighboursAnswer:
        """Mature items nearest to an item's proxy."""
        return self._answer(calls.neighbours(item_id, k), deadline_s)

    def withdraw(self, item_id: str, *, deadline_s: float | None = None) -> WithdrawAnswer:
        """Makes an item unknown again, until it is published anew."""
        return self._answer(calls.withdraw(item_id), deadline_s)

    def release(self, *, deadline_s: float | None = None) -> ReleaseAnswer:
        """What is served."""
        return self._answer(calls.release(), deadline_s)

    def ready(self, *, deadline_s: float | None = None) -> HealthAnswer:
        """Returns when all models answer; waits for a server that is starting as long as the retries last."""
        return self._answer(calls.ready(), deadline_s)

    def feedback(self, events: Iterable[Feedback], *, deadline_s: float | None = None) -> FeedbackAnswer:
        """Says what users did with ranked items, at most 1,000; however often it is sent, it counts once."""
        return self._answer(calls.feedback(events), deadline_s)

    def watch(self, *, deadline_s: float | None = None) -> WatchAnswer:
        """How serving does, over all gateways: latency, batches, queues, freshness, drift, calibration."""
        return self._answer(calls.watch(), deadline_s)

    @property
    def counts(self) -> Counts:
        """Calls, failures and retries so far."""
        return self._tally.counts()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, call: Call[Answer], deadline_s: float | None) -> Answer:
        attempts = Attempts(
            str(call),
            retries=self.retries,
            deadline_s=self.deadline_s if deadline_s is None else deadline_s,
            tally=self._tally,
        )
        with self._tally.call():
            return attempts.read(call.read, self._reply(call, attempts))

    def _reply(self, call: Call[Answer], attempts: Attempts) -> Reply:
        while True:
            seconds = attempts.begin()
            try:
                reply = self._once(call, seconds)
                pause = attempts.answered(reply)
            except (httpx.RequestError, TimeoutError) as error:
                pause = attempts.lost(error)
            else:
                if pause is None:
                    return reply
            time.sleep(pause)

    def _once(self, call: Call[Answer], seconds: float) -> Reply:
        end = time.monotonic() + seconds
        with self._http.stream(
            call.method, call.path, content=call.body, headers=dict(call.headers), timeout=httpx.Timeout(seconds)
        ) as response:
            pieces = []
            for piece in response.iter_bytes():
                pieces.append(piece)
                # httpx bounds the wait for each piece; a server that sends a byte a second would never be late.
                if time.monotonic() > end:
                    raise TimeoutError(f"the answer was not whole after {seconds:.3g} s")
            return Reply(response.status_code, response.headers, b"".join(pieces))
