"""Paths of the console: the files of the page, and the data it shows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Response

from coldstart.data.content import Content
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.json_body import StrictRoute
from coldstart.serving.console import DatasetSamples
from coldstart.serving.console.deployments import DeploymentReader
from coldstart.serving.console.schemas import (
    CodeLevelCard,
    ExampleResponse,
    ItemCard,
    NeighborCard,
    PreviewRequest,
    PreviewResponse,
    StatusResponse,
    UserRates,
)
from coldstart.serving.core.catalog import Catalog
from coldstart.serving.core.code_path import CodeLevel

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway

_NEIGHBORS, _PER_LEVEL = 6, 4
_FILES = Path(__file__).parents[2] / "console"
PAGES: Final = {
    "/console": ("page.html", "text/html; charset=utf-8"),
    "/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/console.js": ("console.js", "text/javascript; charset=utf-8"),
}
"""Path -> file and media type. The files contain no data, so a browser may load them without a token."""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes(gateway: "Gateway") -> APIRouter:
    """Builds the router of the console."""
    router = APIRouter(include_in_schema=False, route_class=StrictRoute)
    reader = DeploymentReader()
    samples = DatasetSamples(
        gateway.dataset, gateway.release.fingerprints.get("dataset"), gateway.champion.catalog, gateway.data
    )
    for path, (file, media) in PAGES.items():
        _serve_file(router, path, file, media)

    @router.get("/v1/console")
    async def status() -> StatusResponse:
        return StatusResponse(
            release=gateway.release,
            stats=gateway.serving_stats(),
            deployments=await asyncio.to_thread(reader.deployments),
            max_image_bytes=gateway.data.max_image_bytes,
            example=samples.dataset is not None,
        )

    @router.get("/v1/console/example")
    async def example() -> ExampleResponse:
        found = await asyncio.to_thread(samples.example)
        if found is None:
            raise ApiError(404, "not_found", samples.no_dataset_reason or "every item of the dataset has train events")
        item_id, content = found
        image = await asyncio.to_thread(samples.image, content)
        return ExampleResponse(item_id=item_id, title=content.title, text=content.text, image=image)

    @router.post("/v1/console/preview")
    async def preview(request: PreviewRequest) -> PreviewResponse:
        server = gateway.champion
        row = (await server.encode_item(Content(request.title, request.text, request.image or None), None)).values
        near, _ = await gateway.items.nearest(row, _NEIGHBORS)
        levels = await gateway.items.code_path(row, _PER_LEVEL)
        cards = await asyncio.to_thread(samples.cards, [one.item_id for one in near])
        shared = await asyncio.to_thread(_level_cards, samples, server.catalog, levels)
        users = await asyncio.to_thread(samples.users)
        scores = await server.score([user.query(row, server.catalog) for user in users])
        return PreviewResponse(
            release=server.release.release,
            neighbors=[
                NeighborCard(item_id=one.item_id, cosine=one.cosine, title=title, image=image)
                for one, (title, image) in zip(near, cards, strict=True)
            ],
            code_path=shared,
            users=[
                UserRates(
                    user_id=user.user_id, recent_clicks=user.recent_clicks, proxy=float(both[0]), oov=float(both[1])
                )
                for user, both in zip(users, scores, strict=True)
            ],
            histories=samples.histories,
            no_images_reason=samples.no_dataset_reason,
        )

    return router


def _level_cards(samples: DatasetSamples, catalog: Catalog, levels: Sequence[CodeLevel]) -> list[CodeLevelCard]:
    ids = [catalog.item_ids(level.nearest) for level in levels]
    return [
        CodeLevelCard(
            codes=level.codes,
            items=level.items,
            nearest=[
                ItemCard(item_id=item_id, title=title, image=image)
                for item_id, (title, image) in zip(own, samples.cards(own), strict=True)
            ],
        )
        for level, own in zip(levels, ids, strict=True)
    ]


def _serve_file(router: APIRouter, path: str, file: str, media: str) -> None:
    body = (_FILES / file).read_bytes()

    @router.get(path)
    async def page() -> Response:
        return Response(body, media_type=media, headers=HEADERS)
