"""What a request must pass before anything of it is read: token, rate, size and time. Plain ASGI, microseconds."""

import asyncio
import math
import time
from collections.abc import Iterable
from contextlib import suppress

from coldstart.config.recipe import Security
from coldstart.config.recipe.serving import is_loopback
from coldstart.serving.errors import ApiError, ASGIApp, Message, Receive, Send, refuse
from coldstart.serving.tokens import Tokens

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json", "/console"})
"""Answered to everybody: probes carry no token, and pages hold no data."""
OPEN_FOLDERS = ("/docs/", "/console/")
_FINISH_S = 1.0
_REALM = (b"www-authenticate", b'Bearer realm="coldstart"')


class Guard:
    """Lets through what has a known token, is not too much, not too large and not too slow.

    Args:
        app: What is guarded.
        settings: The recipe's section; without a file of tokens everybody who reaches the port may ask, which the
            recipe allows on loopback only.
        max_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, settings: Security, max_bytes: int) -> None:
        self.app, self.settings, self.max_bytes = app, settings, max_bytes
        self._tokens = None if settings.tokens_file is None else Tokens(settings.tokens_file)
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
                    await self._let_finish(receive)
                await refuse(send, error)
                return
            except _Gone:
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Message) -> None:
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)):
            return
        if self._tokens is None:
            _only_from_here(scope["headers"])
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        name = self._tokens.name_of(token.strip()) if scheme.lower() == b"bearer" else None
        if name is None:
            message = "send a known token in one header 'Authorization: Bearer <token>'"
            raise ApiError(401, "unauthorized", message, headers=[_REALM])
        self._spend(name)

    def _spend(self, name: str) -> None:
        bucket = self._rates.get(name)
        if bucket is None:
            bucket = self._rates[name] = _Bucket(self.settings.requests_per_s, self.settings.burst)
        wait = bucket.take(time.monotonic())
        if wait:
            message = f"this token may ask {self.settings.requests_per_s:g} times a second; slow down"
            raise ApiError(429, "too_many_requests", message, retry_after=math.ceil(wait))

    async def _body(self, scope: Message, receive: Receive) -> Receive:
        """Reads the body, and answers a `receive` that gives it in one piece."""
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self.max_bytes):
                raise self._too_large()
            if name == b"content-encoding" and value.lower() != b"identity":
                raise ApiError(415, "unsupported_media_type", "content-encoding: send the body as it is")
        chunks, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    more = message.get("more_body", False)
                    if size > self.max_bytes:
                        raise self._too_large()
        except TimeoutError as error:
            why = f"the body did not arrive within {self.settings.body_timeout_s:g} s"
            raise ApiError(408, "too_slow", why, headers=[(b"connection", b"close")]) from error
        whole: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        return replay

    async def _let_finish(self, receive: Receive) -> None:
        """Throws the rest of a body away, up to a point: a client that is cut off while it sends sees no answer."""
        size, more = 0, True
        with suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_S):
                while more and size <= 2 * self.max_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)

    def _too_large(self) -> ApiError:
        message = f"the body may have at most {self.max_bytes} bytes"
        return ApiError(413, "too_large", message, headers=[(b"connection", b"close")])


class _Gone(Exception):  # noqa: N818 - no error of ours
    """The client left before it had asked."""


class _Bucket:
    """So many requests a second, and a burst above it that fills up again while nobody asks."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._left, self._at = float(burst), time.monotonic()

    def take(self, now: float) -> float:
        """Takes one, or answers the seconds until there is one."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self.rate
        self._left -= 1
        return 0.0


def _only_from_here(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuses a page of another site that found its way to loopback, as by a name that is made to point here."""
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
    message = "pages of other sites may not ask a server without tokens; set serving.security.tokens_file"
    raise ApiError(403, "forbidden", message)


def _is_local(address: bytes) -> bool:
    """Whether `host` or `host:port` is this machine's own."""
    host = address.decode("latin-1")
    return is_loopback(host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0])
