"""Items: publishing, looking up, withdrawing, neighbours."""

import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from coldstart.config.recipe import Serving
from coldstart.serving.body import read_json, validated
from coldstart.serving.errors import ApiError
from coldstart.serving.items import outcome
from coldstart.serving.schemas import (
    MAX_NEIGHBOURS,
    ItemAnswer,
    NeighboursAnswer,
    PublishAnswer,
    PublishAnswers,
    PublishOutcome,
    PublishRequest,
    WithdrawAnswer,
)

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway

JSON, FORM = "application/json", "multipart/form-data"
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One item, or `items`: a list of them. As a form: the fields of one item, `features` as JSON, "
        "`picture` as a file; or `items` as JSON in which `picture` names the file field that holds it.",
        "content": {
            JSON: {
                "schema": {
                    "anyOf": [
                        PublishRequest.model_json_schema(),
                        {
                            "type": "object",
                            "properties": {"items": {"type": "array", "items": PublishRequest.model_json_schema()}},
                            "required": ["items"],
                        },
                    ]
                },
                "example": {"item_id": "note-1", "title": "A quiet film about the sea", "features": {"brand": "b"}},
            },
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {
                        **{name: {"type": "string"} for name in ("item_id", "title", "text", "features", "items")},
                        "picture": {"type": "string", "format": "binary"},
                    },
                }
            },
        },
    }
}
ItemId = Annotated[str, Path(min_length=1, max_length=256)]


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of items."""
    router = APIRouter(prefix="/v1", tags=["items"])

    @router.post(
        "/items",
        summary="Publish items: from their content to stored proxies",
        response_model=PublishAnswer | PublishAnswers,
        openapi_extra=_BODY,
    )
    async def publish(request: Request) -> Response:
        began = time.perf_counter()
        given = await _body(request, gateway.settings)
        if isinstance(given, dict) and "items" in given:
            many = await _publish_many(gateway, given)
            failed = sum(one.error is not None for one in many)
            answer: PublishAnswers | PublishAnswer = PublishAnswers(
                items=many,
                published=len(many) - failed,
                failed=failed,
                release=gateway.release.release,
                ms=_since(began),
            )
        else:
            (one,) = await gateway.items.publish([validated(PublishRequest, given)])
            if isinstance(one, ApiError):
                raise one
            answer = PublishAnswer.model_validate(
                one.model_dump(exclude={"error"}) | {"release": gateway.release.release, "ms": _since(began)}
            )
        return Response(answer.model_dump_json(), media_type=JSON)

    @router.get("/items/{item_id:path}/neighbours", summary="The mature items nearest to an item's proxy")
    async def neighbours(item_id: ItemId, k: Annotated[int, Query(ge=1, le=MAX_NEIGHBOURS)] = 10) -> NeighboursAnswer:
        return await gateway.items.neighbours(item_id, k)

    @router.get("/items/{item_id:path}", summary="What is known of an item")
    async def item(item_id: ItemId) -> ItemAnswer:
        return await gateway.items.find(item_id)

    @router.delete("/items/{item_id:path}", summary="Make an item an unknown one again")
    async def withdraw(item_id: ItemId) -> WithdrawAnswer:
        return await gateway.items.withdraw(item_id)

    return router


async def _publish_many(gateway: "Gateway", given: dict[str, Any]) -> list[PublishOutcome]:
    """Every item on its own: one that is refused, for whatever reason, leaves the others as they are."""
    items, most = given["items"], gateway.settings.store.max_bulk
    if len(given) > 1 or not isinstance(items, list) or not items:
        raise ApiError(422, "invalid", "items: give a list of items, and nothing beside it")
    if len(items) > most:
        raise ApiError(422, "invalid", f"items: {len(items)} are given, at most {most} are allowed")
    outcomes: list[PublishOutcome | None] = []
    requests: list[PublishRequest] = []
    for one in items:
        try:
            requests.append(validated(PublishRequest, one))
            outcomes.append(None)
        except ApiError as error:
            named = one.get("item_id") if isinstance(one, dict) else None
            outcomes.append(outcome(named[:256] if isinstance(named, str) else None, error))
    published = zip(requests, await gateway.items.publish(requests), strict=True)
    read = iter([outcome(of.item_id, one) if isinstance(one, ApiError) else one for of, one in published])
    return [next(read) if one is None else one for one in outcomes]


async def _body(request: Request, settings: Serving) -> Any:
    """One item or `items`, as JSON would have given them; pictures of a form are bytes already."""
    form = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if form == JSON:
        return read_json(await request.body())
    if form != FORM:
        raise ApiError(415, "unsupported_media_type", f"content-type: send {JSON} or {FORM}")
    try:
        most, size = settings.store.max_bulk, settings.max_request_bytes
        parts = await request.form(max_files=most, max_fields=most, max_part_size=size)
    except HTTPException as error:
        raise ApiError(400, "bad_request", f"the form cannot be read: {error.detail}") from error
    files: dict[str, bytes] = {}
    given: dict[str, Any] = {}
    for name, part in parts.multi_items():
        if name in files or name in given:
            raise ApiError(422, "invalid", f"the form has two fields '{name[:100]}'")
        if isinstance(part, UploadFile):
            files[name] = await part.read()
        else:
            given[name] = read_json(part.encode()) if name in ("features", "items") else part
    await parts.close()
    if "items" not in given:
        return given | files
    for item in given["items"] if isinstance(given["items"], list) else ():
        if isinstance(item, dict) and isinstance(item.get("picture"), str) and item["picture"] in files:
            item["picture"] = files[item["picture"]]
    return given


def _since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)
