"""What both clients need of HTTP: the token on every request, and answers as plain data."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

Token = str | Callable[[], str] | None
JSON: Final[dict[str, str]] = {"content-type": "application/json"}
USELESS: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Errors of the caller's own making (address, token), which no further attempt would mend."""


@dataclass(frozen=True)
class Reply:
    """An answer of the server, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Bearer(httpx.Auth):
    """`Authorization: Bearer` with a token that is asked for anew on each request."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx."""
        token = self._token() if callable(self._token) else self._token
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        yield request


def limits(connections: int) -> httpx.Limits:
    """All connections are kept: to open one costs more than a ranking."""
    return httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0)
