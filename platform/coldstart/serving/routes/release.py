"""What is served, whether this process lives, and whether it can answer."""

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.errors import ApiError
from coldstart.serving.schemas import AliveAnswer, HealthAnswer, ReleaseAnswer

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway


_FRESH_S = 0.5


class _Readiness:
    """Probes come without a token, so however many come, the models get at most two golden requests a second."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self._last: HealthAnswer | ApiError | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def ask(self) -> HealthAnswer:
        async with self._asking:
            if self._last is None or time.monotonic() >= self._until:
                try:
                    self._last = await self.gateway.health()
                except ApiError as error:
                    self._last = error
                self._until = time.monotonic() + _FRESH_S
        if isinstance(self._last, ApiError):
            raise ApiError(503, "not_ready", self._last.message, retry_after=1)
        return self._last


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the release and its health."""
    router = APIRouter(tags=["release"])
    ready = _Readiness(gateway)

    @router.get("/v1/release", summary="What is served")
    async def release() -> ReleaseAnswer:
        return gateway.release

    @router.get("/healthz", summary="Whether the gateway is alive; asks no model")
    async def healthz() -> AliveAnswer:
        return AliveAnswer(status="alive")

    @router.get("/readyz", summary="Whether all models answer a golden request")
    async def readyz() -> HealthAnswer:
        return await ready.ask()

    return router
