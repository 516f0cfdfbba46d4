"""The id of a request: the client's if it sent one that is fit to be passed on, else a new one; every answer has it."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
_FIT = re.compile(rb"[A-Za-z0-9._:/+=-]{1,64}")


@dataclass(frozen=True, slots=True)
class Incoming:
    """The request that is being answered.

    Attributes:
        request_id: Its id.
        arrived: When it came in, by `time.perf_counter`.
    """

    request_id: str
    arrived: float


_PRESENT: ContextVar[Incoming | None] = ContextVar("incoming", default=None)


def incoming() -> Incoming:
    """The request that the calling task answers; outside of HTTP, a new one."""
    return _PRESENT.get() or Incoming(uuid4().hex, time.perf_counter())


class RequestId:
    """Gives every request an id and every answer, errors too, the header.

    Args:
        app: The application.
        announced: Whether the header is written here; False where what stands in front does it.
    """

    def __init__(self, app: ASGIApp, *, announced: bool) -> None:
        self.app, self.announced = app, announced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _FIT.fullmatch(given) else uuid4().hex
        header = (HEADER.lower().encode(), request_id.encode())

        async def named(message: Message) -> None:
            if self.announced and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        # Every request has a task of its own, so this is never another's; it is read once more if the request fails.
        _PRESENT.set(Incoming(request_id, time.perf_counter()))
        await self.app(scope, receive, named)
