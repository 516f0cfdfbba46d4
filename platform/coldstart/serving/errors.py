"""One shape for every error, with nothing of the inside in it."""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from coldstart.serving.request_id import HEADER, incoming

LOG = logging.getLogger("ray.serve")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

_LONGEST = 200
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid"}


class ApiError(Exception):
    """A failure with the status, code and message the client may see."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: int | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = list(headers)
        if retry_after is not None:
            self.headers.append((b"retry-after", str(retry_after).encode()))


def body(code: str, message: str) -> dict[str, dict[str, str]]:
    """The stable error body."""
    return {"error": {"code": code, "message": message}}


def install(app: FastAPI) -> None:
    """Gives every failure of an application the stable body."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        response = JSONResponse(body(error.code, error.message), error.status)
        response.raw_headers.extend(error.headers)
        return response

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return JSONResponse(body("invalid", first_problem(error.errors())), 422)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "http_error")
        return JSONResponse(body(code, str(error.detail)), error.status_code, error.headers)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        # This answer passes by the middleware that adds the header to all others.
        named = {HEADER: incoming().request_id}
        return JSONResponse(body("internal", "the request failed inside the server"), 500, named)

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def first_problem(problems: Sequence[Any]) -> str:
    """Where and what, for the first of pydantic's problems; never the value itself."""
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")[:_LONGEST]
    what = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


async def refuse(send: Send, error: ApiError) -> None:
    """Answers a failure outside of any application."""
    answer = json.dumps(body(error.code, error.message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode()), *error.headers]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
