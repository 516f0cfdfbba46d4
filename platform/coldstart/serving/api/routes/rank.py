"""Ranking: from candidates to click probabilities."""

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from coldstart.serving.api.arrow_codec import decode_arrow, encode_arrow
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.json_body import read_json, validated
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import ARROW, RankBatchRequest, RankBatchResponse, RankRequest, RankResponse

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway

JSON = "application/json"
_EXAMPLE = {
    "user_id": "u1029",
    "now": 1740003600,
    "history": [{"item_id": "i0000007", "label": 1, "timestamp": 1740000000}],
    "candidates": [{"item_id": "i0000042"}, {"title": "Witty poetry tips", "text": "for people in a hurry"}],
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {
            "schema": {
                "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("RankRequest", "RankBatchRequest")]
            },
            "examples": {
                "one": {"summary": "One user; a known candidate and one by content", "value": _EXAMPLE},
                "several": {
                    "summary": "Two users",
                    "value": {"requests": [_EXAMPLE, {"candidates": [{"item_id": "i0000042"}]}]},
                },
            },
        },
        ARROW: {"schema": {"type": "string", "format": "binary", "description": "one row per user, see the README"}},
    },
}
_ARROW_RESPONSE = {ARROW: {"schema": {"type": "string", "format": "binary"}}}


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of ranking."""
    router = APIRouter(prefix="/v1", tags=["rank"])

    # The body is parsed here: FastAPI's own parsing costs more than ranking a few candidates.
    @router.post(
        "/rank",
        summary="Score candidates for one user or for several",
        response_model=RankResponse | RankBatchResponse,
        responses={200: {"content": _ARROW_RESPONSE, "description": "In the format of the request"}},
        openapi_extra={"requestBody": _BODY},
    )
    async def rank(request: Request) -> Response:
        return await _respond(gateway, request)

    return router


class RankFastPath:
    """POST /v1/rank as plain ASGI: FastAPI's routing would double its cost."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        response = await _respond(self.gateway, Request(scope, receive))
        await response(scope, receive, send)


async def _respond(gateway: "Gateway", request: Request) -> Response:
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type == ARROW:
        return Response(encode_arrow(await _rank_all(gateway, decode_arrow(await request.body()))), media_type=ARROW)
    if media_type != JSON:
        raise ApiError(415, "unsupported_media_type", f"content-type: send {JSON} or {ARROW}")
    body = read_json(await request.body())
    response: RankResponse | RankBatchResponse
    if isinstance(body, dict) and "requests" in body:
        calls = [RankCall.from_request(one) for one in validated(RankBatchRequest, body).requests]
        response = RankBatchResponse(responses=await _rank_all(gateway, calls))
    else:
        response = await gateway.rank(RankCall.from_request(validated(RankRequest, body)))
    return Response(response.__pydantic_serializer__.to_json(response), media_type=JSON)


async def _rank_all(gateway: "Gateway", calls: list[RankCall]) -> list[RankResponse]:
    """Ranks all calls at once, so that they share a batch; one refused call refuses all."""
    responses = await asyncio.gather(*map(gateway.rank, calls), return_exceptions=True)
    ranked = []
    for position, response in enumerate(responses):
        if isinstance(response, ApiError) and response.status == 422 and len(calls) > 1:
            response.message = f"requests.{position}.{response.message}"
        if isinstance(response, BaseException):
            raise response
        ranked.append(response)
    return ranked
