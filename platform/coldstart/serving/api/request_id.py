"""Request ids: the client's id if it is valid, else a new one. Every response has it in a header."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
_VALID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,64}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The current request.

    Attributes:
        request_id: Its id.
        arrived: Arrival time, by `time.perf_counter`.
    """

    request_id: str
    arrived: float


_CURRENT: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)


def current_request() -> RequestContext:
    """The request of the calling task; outside of HTTP, a new one."""
    return _CURRENT.get() or RequestContext(uuid4().hex, time.perf_counter())


class RequestIdMiddleware:
    """Gives every request an id, and every response (errors too) the header.

    Args:
        app: The application.
        add_header: Whether to write the header; False if the proxy in front does it.
    """

    def __init__(self, app: ASGIApp, *, add_header: bool) -> None:
        self.app, self.add_header = app, add_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = sent.decode() if _VALID.fullmatch(sent) else uuid4().hex
        header = (HEADER.lower().encode(), request_id.encode())

        async def send_with_id(message: Message) -> None:
            if self.add_header and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        # Each request has its own task, so requests never share this; the error handler reads it after a failure.
        _CURRENT.set(RequestContext(request_id, time.perf_counter()))
        await self.app(scope, receive, send_with_id)
