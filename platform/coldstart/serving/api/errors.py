"""One error body for all failures, without internal details."""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from coldstart.serving.api.request_id import HEADER, current_request

LOG = logging.getLogger("ray.serve")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

_MAX_LOCATION = 200
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid"}


class ApiError(Exception):
    """A failure with the status, code and message that the client receives."""

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


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    """The error body; its form is part of the API."""
    return {"error": {"code": code, "message": message}}


def install_error_handlers(app: FastAPI) -> None:
    """Makes every failure of an application return the error body."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        response = JSONResponse(error_body(error.code, error.message), error.status)
        response.raw_headers.extend(error.headers)
        return response

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return JSONResponse(error_body("invalid", first_error(error.errors())), 422)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "http_error")
        return JSONResponse(error_body(code, str(error.detail)), error.status_code, error.headers)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        # This response does not pass the middleware that adds the header to the others.
        named = {HEADER: current_request().request_id}
        return JSONResponse(error_body("internal", "the request failed inside the server"), 500, named)

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def first_error(errors: Sequence[Any]) -> str:
    """Field and reason of the first pydantic error, without the value."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")[:_MAX_LOCATION]
    what = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


async def send_error(send: Send, error: ApiError) -> None:
    """Sends an error response without an application."""
    payload = json.dumps(error_body(error.code, error.message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode()), *error.headers]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
