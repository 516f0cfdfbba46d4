"""The HTTP parts that both clients need: token, limits, and the response as plain data."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

Token = str | Callable[[], str] | None
JSON: Final[dict[str, str]] = {"content-type": "application/json"}
CALLER_ERRORS: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Errors that the caller causes (address, token); a retry cannot help."""


@dataclass(frozen=True)
class HttpResponse:
    """A complete response of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class BearerAuth(httpx.Auth):
    """`Authorization: Bearer` with a token that is fetched for each request."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx."""
        token = self._token() if callable(self._token) else self._token
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        yield request


def connection_limits(connections: int) -> httpx.Limits:
    """Keeps all connections alive: opening one takes longer than a ranking."""
    return httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0)
