"""Ranking: candidates in, click probabilities out."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.schemas import RankAnswer, RankRequest

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of ranking."""
    router = APIRouter(prefix="/v1", tags=["rank"])

    @router.post("/rank", summary="Score candidates for a user")
    async def rank(request: RankRequest) -> RankAnswer:
        return await gateway.rank(request)

    return router
