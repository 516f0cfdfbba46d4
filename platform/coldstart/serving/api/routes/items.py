"""Items: publish, look up, withdraw, and find neighbors."""

import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from coldstart.config.recipe import Serving
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.json_body import read_json, validated
from coldstart.serving.api.schemas import (
    MAX_NEIGHBORS,
    ItemResponse,
    NeighborsResponse,
    PublishBatchResponse,
    PublishOutcome,
    PublishRequest,
    PublishResponse,
    WithdrawResponse,
)
from coldstart.serving.core.item_service import failed_outcome

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway

JSON, FORM = "application/json", "multipart/form-data"
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One item, or a list `items`. As a form: the fields of one item, with `features` as JSON and "
        "`image` as a file; or `items` as JSON, where `image` is the name of a file field.",
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
                        "image": {"type": "string", "format": "binary"},
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
        summary="Publish items: encode their content and store their proxies",
        response_model=PublishResponse | PublishBatchResponse,
        openapi_extra=_BODY,
    )
    async def publish(request: Request) -> Response:
        began = time.perf_counter()
        body = await _body(request, gateway.settings)
        if isinstance(body, dict) and "items" in body:
            outcomes = await _publish_many(gateway, body)
            failed = sum(one.error is not None for one in outcomes)
            response: PublishBatchResponse | PublishResponse = PublishBatchResponse(
                items=outcomes,
                published=len(outcomes) - failed,
                failed=failed,
                release=gateway.release.release,
                ms=_ms_since(began),
            )
        else:
            (one,) = await gateway.items.publish([validated(PublishRequest, body)])
            if isinstance(one, ApiError):
                raise one
            response = PublishResponse.model_validate(
                one.model_dump(exclude={"error"}) | {"release": gateway.release.release, "ms": _ms_since(began)}
            )
        return Response(response.model_dump_json(), media_type=JSON)

    @router.get("/items/{item_id:path}/neighbors", summary="The mature items nearest to an item's proxy")
    async def neighbors(item_id: ItemId, k: Annotated[int, Query(ge=1, le=MAX_NEIGHBORS)] = 10) -> NeighborsResponse:
        return await gateway.items.neighbors(item_id, k)

    @router.get("/items/{item_id:path}", summary="Look up an item")
    async def item(item_id: ItemId) -> ItemResponse:
        return await gateway.items.find(item_id)

    @router.delete("/items/{item_id:path}", summary="Withdraw an item: it is unknown again")
    async def withdraw(item_id: ItemId) -> WithdrawResponse:
        return await gateway.items.withdraw(item_id)

    return router


async def _publish_many(gateway: "Gateway", body: dict[str, Any]) -> list[PublishOutcome]:
    """Publishes each item on its own: a refused item does not affect the others."""
    items, limit = body["items"], gateway.settings.store.max_items_per_publish
    if len(body) > 1 or not isinstance(items, list) or not items:
        raise ApiError(422, "invalid", "items: send a list of items and no other key")
    if len(items) > limit:
        raise ApiError(422, "invalid", f"items: {len(items)} items are sent, at most {limit} are allowed")
    outcomes: list[PublishOutcome | None] = []
    requests: list[PublishRequest] = []
    for one in items:
        try:
            requests.append(validated(PublishRequest, one))
            outcomes.append(None)
        except ApiError as error:
            named = one.get("item_id") if isinstance(one, dict) else None
            outcomes.append(failed_outcome(named[:256] if isinstance(named, str) else None, error))
    published = zip(requests, await gateway.items.publish(requests), strict=True)
    read = iter([failed_outcome(of.item_id, one) if isinstance(one, ApiError) else one for of, one in published])
    return [next(read) if one is None else one for one in outcomes]


async def _body(request: Request, settings: Serving) -> Any:
    """One item or `items`, in the shape of parsed JSON; images of a form are bytes."""
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type == JSON:
        return read_json(await request.body())
    if media_type != FORM:
        raise ApiError(415, "unsupported_media_type", f"content-type: send {JSON} or {FORM}")
    try:
        limit, size = settings.store.max_items_per_publish, settings.max_request_bytes
        parts = await request.form(max_files=limit, max_fields=limit, max_part_size=size)
    except HTTPException as error:
        raise ApiError(400, "bad_request", f"the form cannot be read: {error.detail}") from error
    files: dict[str, bytes] = {}
    body: dict[str, Any] = {}
    for name, part in parts.multi_items():
        if name in files or name in body:
            raise ApiError(422, "invalid", f"the form has two fields named '{name[:100]}'")
        if isinstance(part, UploadFile):
            files[name] = await part.read()
        else:
            body[name] = read_json(part.encode()) if name in ("features", "items") else part
    await parts.close()
    if "items" not in body:
        return body | files
    for item in body["items"] if isinstance(body["items"], list) else ():
        if isinstance(item, dict) and isinstance(item.get("image"), str) and item["image"] in files:
            item["image"] = files[item["image"]]
    return body


def _ms_since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)
