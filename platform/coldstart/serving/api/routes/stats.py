"""How serving does, and what users did with what was ranked for them."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.api.json_body import StrictRoute
from coldstart.serving.api.schemas import FeedbackRequest, FeedbackResponse
from coldstart.serving.monitoring.stats_schemas import ServingStats

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the statistics."""
    router = APIRouter(prefix="/v1", tags=["stats"], route_class=StrictRoute)

    @router.post("/feedback", status_code=202, summary="Say what users did with ranked items")
    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        return gateway.feedback(request)

    @router.get("/stats", summary="Latency, drift, calibration and the A/B test, over all gateways")
    async def stats() -> ServingStats:
        return gateway.serving_stats()

    return router
