"""Builds the HTTP application of one gateway from routers, error handlers and middleware."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.routing import Route

from coldstart.serving.api import errors, openapi
from coldstart.serving.api.request_guard import RequestGuard
from coldstart.serving.api.request_id import RequestIdMiddleware
from coldstart.serving.api.routes import routers
from coldstart.serving.api.routes.rank import RankFastPath
from coldstart.serving.api.schemas import ErrorResponse

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway


def make_app(gateway: "Gateway", *, proxy_adds_request_id: bool = False) -> FastAPI:
    """Builds the HTTP application of one gateway replica.

    Args:
        gateway: The gateway.
        proxy_adds_request_id: Whether the proxy in front writes the request id into the response.
    """
    error_responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)
    }

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(
        title="coldstart", version="1", responses=error_responses, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_middleware(RequestGuard, settings=gateway.settings.security, max_bytes=gateway.settings.max_request_bytes)
    app.add_middleware(RequestIdMiddleware, add_header=not proxy_adds_request_id)
    errors.install_error_handlers(app)
    for router in routers(gateway):
        app.include_router(router)
    app.router.routes.insert(0, Route("/v1/rank", RankFastPath(gateway), methods=["POST"]))
    openapi.complete_schema(app, tokens=gateway.settings.security.tokens_file is not None)
    return app
