"""The HTTP parts that both clients need: token, limits, and the response as plain data."""

import os
import ssl
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass

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


def proxy_options(url: str) -> dict[str, Any]:
    """Options of an httpx client: the proxy of the environment, but none for a server on loopback.

    httpx's own reading of the environment rejects IPv6 networks in NO_PROXY, so the standard library reads it.

    Raises:
        ValueError: the proxy speaks SOCKS, and the package for it is missing.
    """
    address = httpx.URL(url)
    options: dict[str, Any] = {"trust_env": False}
    if certificates := os.environ.get("SSL_CERT_FILE"):
        options["verify"] = ssl.create_default_context(cafile=certificates)
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy is None or _is_loopback(address.host) or proxy_bypass(address.host):
        return options
    if proxy.startswith("socks") and find_spec("socksio") is None:
        raise ValueError(
            f"the environment names the SOCKS proxy {proxy} for {url}: install httpx[socks], or add {address.host} to "
            "NO_PROXY"
        )
    return options | {"proxy": proxy}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def connection_limits(connections: int) -> httpx.Limits:
    """Keeps all connections alive: opening one takes longer than a ranking."""
    return httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0)
