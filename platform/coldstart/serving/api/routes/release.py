"""The served release, liveness and readiness."""

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.schemas import AliveResponse, HealthResponse, ReleaseResponse

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway


_CACHE_S = 0.5


class _Readiness:
    """Probes send no token, so the models get at most two golden requests per second, however many probes arrive."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self._last: HealthResponse | ApiError | None = None
        self._expires_at = 0.0
        self._lock = asyncio.Lock()

    async def check(self) -> HealthResponse:
        async with self._lock:
            if self._last is None or time.monotonic() >= self._expires_at:
                try:
                    self._last = await self.gateway.health()
                except ApiError as error:
                    self._last = error
                self._expires_at = time.monotonic() + _CACHE_S
        if isinstance(self._last, ApiError):
            raise ApiError(503, "not_ready", self._last.message, retry_after=1)
        return self._last


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the release and its health."""
    router = APIRouter(tags=["release"])
    ready = _Readiness(gateway)

    @router.get("/v1/release", summary="The served release")
    async def release() -> ReleaseResponse:
        return gateway.release

    @router.get("/healthz", summary="Whether the gateway is alive; calls no model")
    async def healthz() -> AliveResponse:
        return AliveResponse(status="alive")

    @router.get("/readyz", summary="Whether all models answer a golden request")
    async def readyz() -> HealthResponse:
        return await ready.check()

    return router
