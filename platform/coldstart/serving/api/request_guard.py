"""ASGI middleware: authentication, rate limit, body size and body timeout. It takes microseconds."""

import asyncio
import math
import time
from collections.abc import Iterable
from contextlib import suppress

from coldstart.config.recipe import Security
from coldstart.config.recipe.serving import is_loopback
from coldstart.serving.api.errors import ApiError, ASGIApp, Message, Receive, Send, send_error
from coldstart.serving.api.tokens import TokenFile

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json", "/console"})
"""Served without a token: probes send none, and the pages contain no data."""
OPEN_FOLDERS = ("/docs/", "/console/")
_DRAIN_S = 1.0
_REALM = (b"www-authenticate", b'Bearer realm="coldstart"')


class RequestGuard:
    """Enforces authentication, rate limit, body size and body timeout.

    Args:
        app: The guarded application.
        settings: `serving.security` of the recipe. Without a token file every client is admitted; the recipe allows
            that on loopback only.
        max_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, settings: Security, max_bytes: int) -> None:
        self.app, self.settings, self.max_bytes = app, settings, max_bytes
        self._tokens = None if settings.tokens_file is None else TokenFile(settings.tokens_file)
        self._rates: dict[str, _Bucket] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            try:
                self._admit(scope)
                receive = await self._body(scope, receive)
            except ApiError as error:
                if error.status == 413:
                    await self._drain(receive)
                await send_error(send, error)
                return
            except _ClientDisconnected:
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Message) -> None:
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)):
            return
        if self._tokens is None:
            _refuse_other_sites(scope["headers"])
            return
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        name = self._tokens.name_of(token.strip()) if scheme.lower() == b"bearer" else None
        if name is None:
            message = "send a known token in one header 'Authorization: Bearer <token>'"
            raise ApiError(401, "unauthorized", message, headers=[_REALM])
        self._take_from_bucket(name)

    def _take_from_bucket(self, name: str) -> None:
        bucket = self._rates.get(name)
        if bucket is None:
            bucket = self._rates[name] = _Bucket(self.settings.requests_per_s, self.settings.burst)
        wait = bucket.take(time.monotonic())
        if wait:
            message = f"this token is limited to {self.settings.requests_per_s:g} requests per second; retry later"
            raise ApiError(429, "too_many_requests", message, retry_after=math.ceil(wait))

    async def _body(self, scope: Message, receive: Receive) -> Receive:
        """Reads the body and returns a `receive` that delivers it in one message."""
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self.max_bytes):
                raise self._too_large()
            if name == b"content-encoding" and value.lower() != b"identity":
                raise ApiError(415, "unsupported_media_type", "content-encoding: send the body without encoding")
        chunks, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _ClientDisconnected
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    more = message.get("more_body", False)
                    if size > self.max_bytes:
                        raise self._too_large()
        except TimeoutError as error:
            why = f"the body did not arrive within {self.settings.body_timeout_s:g} s"
            raise ApiError(408, "too_slow", why, headers=[(b"connection", b"close")]) from error
        body: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = body, None
            return message

        return replay

    async def _drain(self, receive: Receive) -> None:
        """Discards the rest of a body, up to a limit: a client cut off while sending reads no response."""
        size, more = 0, True
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while more and size <= 2 * self.max_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)

    def _too_large(self) -> ApiError:
        message = f"the body may have at most {self.max_bytes} bytes"
        return ApiError(413, "too_large", message, headers=[(b"connection", b"close")])


class _ClientDisconnected(Exception):  # noqa: N818 - not an error of the server
    """The client disconnected before its request was complete."""


class _Bucket:
    """A token bucket: a steady rate, and a burst that refills while no requests arrive."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._tokens_left, self._updated_at = float(burst), time.monotonic()

    def take(self, now: float) -> float:
        """Takes one token and returns 0, or returns the seconds until one is available."""
        self._tokens_left = min(self.burst, self._tokens_left + (now - self._updated_at) * self.rate)
        self._updated_at = now
        if self._tokens_left < 1:
            return (1 - self._tokens_left) / self.rate
        self._tokens_left -= 1
        return 0.0


def _refuse_other_sites(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuses web pages of other sites that reach loopback, for example by DNS rebinding."""
    host, browser = b"", False
    for name, value in headers:
        if name == b"host":
            host = value
        elif name in (b"origin", b"sec-fetch-site"):
            browser = True
            if name == b"origin" and not _is_local(value.partition(b"://")[2]):
                break
    else:
        if not browser or _is_local(host):
            return
    message = "pages of other sites may not call a server without tokens; set serving.security.tokens_file"
    raise ApiError(403, "forbidden", message)


def _is_local(address: bytes) -> bool:
    """Whether `host` or `host:port` is a loopback address."""
    host = address.decode("latin-1")
    return is_loopback(host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0])
