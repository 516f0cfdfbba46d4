"""The HTTP application of one gateway: routers, errors and limits put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.routing import Route

from coldstart.serving import errors, openapi
from coldstart.serving.guard import Guard
from coldstart.serving.request_id import RequestId
from coldstart.serving.routes import routers
from coldstart.serving.routes.rank import ShortWay
from coldstart.serving.schemas import ErrorAnswer

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway


def make_app(gateway: "Gateway", *, named_outside: bool = False) -> FastAPI:
    """The HTTP application of one gateway replica.

    Args:
        gateway: Does the work.
        named_outside: Whether the server around it writes the request's id into the answer.
    """
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)
    }

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(title="coldstart", version="1", responses=problems, docs_url=None, redoc_url=None, lifespan=running)
    app.add_middleware(Guard, settings=gateway.settings.security, max_bytes=gateway.settings.max_request_bytes)
    app.add_middleware(RequestId, announced=not named_outside)
    errors.install(app)
    for router in routers(gateway):
        app.include_router(router)
    app.router.routes.insert(0, Route("/v1/rank", ShortWay(gateway), methods=["POST"]))
    openapi.describe(app, tokens=gateway.settings.security.tokens_file is not None)
    return app
