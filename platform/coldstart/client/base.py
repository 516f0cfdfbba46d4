"""The part that both clients share: settings, counters and the connection pool."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import httpx

from coldstart.client.connection import BearerAuth, Token, connection_limits
from coldstart.client.operations import Call
from coldstart.client.retries import CallAttempts, CallCounts, CallStats, ResponseT, RetryPolicy

HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)
TransportT = TypeVar("TransportT", httpx.BaseTransport, httpx.AsyncBaseTransport)


class BaseClient(ABC, Generic[HttpT, TransportT]):
    """Calls a server.

    Args:
        url: Of the server, without a path of the API.
        token: Bearer token, or a function that returns it for each attempt, so that it can be rotated.
        deadline_s: For a call with all its retries, s; every method accepts its own.
        retries: How often and how long to retry.
        connections: Maximum number of connections; further calls wait for one.
        transport: Replaces the network.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        deadline_s: float = 30.0,
        retries: RetryPolicy | None = None,
        connections: int = 100,
        transport: TransportT | None = None,
    ) -> None:
        self.deadline_s, self.retries, self._stats = deadline_s, retries or RetryPolicy(), CallStats()
        self._http: HttpT = self._open(url, BearerAuth(token), connection_limits(connections), transport)

    @property
    def counts(self) -> CallCounts:
        """Calls, failures and retries so far."""
        return self._stats.counts()

    @abstractmethod
    def _open(self, url: str, auth: httpx.Auth, limits: httpx.Limits, transport: TransportT | None) -> HttpT: ...

    def _attempts(self, call: Call[ResponseT], deadline_s: float | None) -> CallAttempts:
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        return CallAttempts(str(call), retries=self.retries, deadline_s=deadline_s, stats=self._stats)
