"""What is served, whether this process lives, and whether it can answer."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.schemas import AliveAnswer, HealthAnswer, ReleaseAnswer

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the release and its health."""
    router = APIRouter(tags=["release"])

    @router.get("/v1/release", summary="What is served")
    async def release() -> ReleaseAnswer:
        return gateway.release

    @router.get("/healthz", summary="Whether the gateway is alive; asks no model")
    async def healthz() -> AliveAnswer:
        return AliveAnswer(status="alive")

    @router.get("/readyz", summary="Whether all models answer a golden request")
    async def readyz() -> HealthAnswer:
        return await gateway.health()

    return router
