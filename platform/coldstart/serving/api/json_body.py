"""Strict parsing of JSON bodies: whatever two parsers could read differently is refused."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import jiter
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from coldstart.serving.api.errors import ApiError, first_error

_MAX_MESSAGE = 200
_MAX_ERRORS = 100
Model = TypeVar("Model", bound=BaseModel)


def read_json(raw: bytes) -> Any:
    """Parses JSON; refuses duplicate keys, NaN and infinities, lone surrogates and deep nesting.

    Raises:
        ApiError: 400, with the position of the error.
    """
    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise ApiError(400, "bad_request", f"the body is not JSON: {str(error)[:_MAX_MESSAGE]}") from error


def validated(model: type[Model], value: Any) -> Model:
    """Validates a parsed body.

    Raises:
        ApiError: 422, with the field and the reason of the first error.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if error.error_count() > _MAX_ERRORS:  # Formatting all of them takes seconds.
            raise ApiError(422, "invalid", f"the body has {error.error_count()} errors") from error
        raise ApiError(422, "invalid", first_error(error.errors(include_url=False, include_input=False))) from error


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except ApiError as error:
            raise HTTPException(error.status, error.message) from error  # FastAPI passes only this type on.


class StrictRoute(APIRoute):
    """A route whose JSON body is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict
