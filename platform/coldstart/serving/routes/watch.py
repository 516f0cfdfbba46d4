"""How serving does, and what users did with what was ranked for them."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.body import StrictRoute
from coldstart.serving.schemas import FeedbackAnswer, FeedbackRequest
from coldstart.serving.watch_answers import WatchAnswer

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the watch."""
    router = APIRouter(prefix="/v1", tags=["watch"], route_class=StrictRoute)

    @router.post("/feedback", status_code=202, summary="Say what users did with ranked items")
    async def feedback(request: FeedbackRequest) -> FeedbackAnswer:
        return gateway.feedback(request)

    @router.get("/watch", summary="Latency, drift, calibration and the trial, over all gateways")
    async def watch() -> WatchAnswer:
        return gateway.figures()

    return router
