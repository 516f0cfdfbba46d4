"""Items: publishing."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.body import StrictRoute
from coldstart.serving.schemas import PublishAnswer, PublishRequest

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of items."""
    router = APIRouter(prefix="/v1", tags=["items"], route_class=StrictRoute)

    @router.post("/items", summary="Publish an item: from its content to a stored proxy")
    async def publish(request: PublishRequest) -> PublishAnswer:
        return await gateway.publish(request)

    return router
