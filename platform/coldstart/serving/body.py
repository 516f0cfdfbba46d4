"""JSON bodies, read strictly and in one place: what two parsers might read differently is refused."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import jiter
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from coldstart.serving.errors import ApiError, first_problem

_LONGEST = 200
_MANY = 100
Model = TypeVar("Model", bound=BaseModel)


def read_json(raw: bytes) -> Any:
    """Parses JSON without what is ambiguous in it: duplicate keys, NaN and infinities, lone surrogates, deep nesting.

    Raises:
        ApiError: 400, with the place of the problem.
    """
    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise ApiError(400, "bad_request", f"the body is not JSON: {str(error)[:_LONGEST]}") from error


def validated(model: type[Model], value: Any) -> Model:
    """Reads a parsed body as a model.

    Raises:
        ApiError: 422, where and what, for the first problem.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if error.error_count() > _MANY:  # Telling each would cost seconds.
            raise ApiError(422, "invalid", f"the body has {error.error_count()} problems") from error
        raise ApiError(422, "invalid", first_problem(error.errors(include_url=False, include_input=False))) from error


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except ApiError as error:
            raise HTTPException(error.status, error.message) from error  # The only kind that FastAPI lets through.


class StrictRoute(APIRoute):
    """A route whose JSON body is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict
