"""Ranking: candidates in, click probabilities out."""

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from coldstart.serving.arrow_form import read_arrow, write_arrow
from coldstart.serving.body import read_json, validated
from coldstart.serving.call import RankCall
from coldstart.serving.errors import ApiError
from coldstart.serving.schemas import ARROW, RankAnswer, RankAnswers, RankRequest, RankRequests

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway

JSON = "application/json"
_ONE = {
    "user_id": "u1029",
    "now": 1740003600,
    "history": [{"item_id": "i0000007", "label": 1, "timestamp": 1740000000}],
    "candidates": [{"item_id": "i0000042"}, {"title": "Witty poetry tips", "text": "for people in a hurry"}],
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {
            "schema": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("RankRequest", "RankRequests")]},
            "examples": {
                "one": {"summary": "One user; a known candidate and one by content", "value": _ONE},
                "several": {
                    "summary": "Two users",
                    "value": {"requests": [_ONE, {"candidates": [{"item_id": "i0000042"}]}]},
                },
            },
        },
        ARROW: {"schema": {"type": "string", "format": "binary", "description": "a row per user, see the README"}},
    },
}
_ARROW_ANSWER = {ARROW: {"schema": {"type": "string", "format": "binary"}}}


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of ranking."""
    router = APIRouter(prefix="/v1", tags=["rank"])

    # The body is read by hand: FastAPI's own way costs more than the ranking of a few candidates.
    @router.post(
        "/rank",
        summary="Score candidates for one user or for several",
        response_model=RankAnswer | RankAnswers,
        responses={200: {"content": _ARROW_ANSWER, "description": "In the form of the request"}},
        openapi_extra={"requestBody": _BODY},
    )
    async def rank(request: Request) -> Response:
        return await _answer(gateway, request)

    return router


class ShortWay:
    """POST /v1/rank as plain ASGI, past FastAPI's routing, which costs as much as all that is done here."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        response = await _answer(self.gateway, Request(scope, receive))
        await response(scope, receive, send)


async def _answer(gateway: "Gateway", request: Request) -> Response:
    form = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if form == ARROW:
        return Response(write_arrow(await _all(gateway, read_arrow(await request.body()))), media_type=ARROW)
    if form != JSON:
        raise ApiError(415, "unsupported_media_type", f"content-type: send {JSON} or {ARROW}")
    given = read_json(await request.body())
    answer: RankAnswer | RankAnswers
    if isinstance(given, dict) and "requests" in given:
        calls = [RankCall.of(one) for one in validated(RankRequests, given).requests]
        answer = RankAnswers(answers=await _all(gateway, calls))
    else:
        answer = await gateway.rank(RankCall.of(validated(RankRequest, given)))
    return Response(answer.__pydantic_serializer__.to_json(answer), media_type=JSON)


async def _all(gateway: "Gateway", calls: list[RankCall]) -> list[RankAnswer]:
    """Ranks together, so that the models see one batch; a request that is refused refuses all."""
    answers = await asyncio.gather(*map(gateway.rank, calls), return_exceptions=True)
    good = []
    for position, answer in enumerate(answers):
        if isinstance(answer, ApiError) and answer.status == 422 and len(calls) > 1:
            answer.message = f"requests.{position}.{answer.message}"
        if isinstance(answer, BaseException):
            raise answer
        good.append(answer)
    return good
