"""Ranking: candidates in, click probabilities out."""

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from coldstart.serving.body import read_json, validated
from coldstart.serving.call import RankCall
from coldstart.serving.errors import ApiError
from coldstart.serving.schemas import RankAnswer, RankAnswers, RankRequest, RankRequests

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway

JSON = "application/json"


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of ranking."""
    router = APIRouter(prefix="/v1", tags=["rank"])

    # The body is read by hand: FastAPI's own way costs more than the ranking of a few candidates.
    @router.post(
        "/rank", summary="Score candidates for one user or for several", response_model=RankAnswer | RankAnswers
    )
    async def rank(request: Request) -> Response:
        _check_form(request)
        given = read_json(await request.body())
        if isinstance(given, dict) and "requests" in given:
            calls = [RankCall.of(one) for one in validated(RankRequests, given).requests]
            answer: RankAnswer | RankAnswers = RankAnswers(answers=await _all(gateway, calls))
        else:
            answer = await gateway.rank(RankCall.of(validated(RankRequest, given)))
        return Response(answer.__pydantic_serializer__.to_json(answer), media_type=JSON)

    return router


async def _all(gateway: "Gateway", calls: list[RankCall]) -> list[RankAnswer]:
    """Ranks together, so that the models see one batch; a request that is refused refuses all."""
    answers = await asyncio.gather(*map(gateway.rank, calls), return_exceptions=True)
    good = []
    for position, answer in enumerate(answers):
        if isinstance(answer, ApiError):
            answer.message = f"requests.{position}.{answer.message}" if answer.status == 422 else answer.message
        if isinstance(answer, BaseException):
            raise answer
        good.append(answer)
    return good


def _check_form(request: Request) -> None:
    form = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if form != JSON:
        raise ApiError(415, "unsupported_media_type", f"content-type: send {JSON}")
