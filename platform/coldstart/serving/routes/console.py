"""The console: one page without a build step, and the answers it is drawn from."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Response

from coldstart.data.content import Content
from coldstart.serving.body import StrictRoute
from coldstart.serving.console import Samples
from coldstart.serving.console.answers import (
    Card,
    ExampleAnswer,
    LookAnswer,
    LookRequest,
    StatusAnswer,
    UserRates,
)
from coldstart.serving.console.replicas import Replicas
from coldstart.serving.errors import ApiError

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway

_NEIGHBOURS = 6
_FILES = Path(__file__).parents[1] / "console"
PAGES: Final = {
    "/console": ("page.html", "text/html; charset=utf-8"),
    "/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/console.js": ("console.js", "text/javascript; charset=utf-8"),
}
"""Path -> file and media type. They hold no data, so that a browser may load them before it has a token."""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the console."""
    router = APIRouter(include_in_schema=False, route_class=StrictRoute)
    replicas = Replicas()
    samples = Samples(
        gateway.dataset, gateway.release.fingerprints.get("dataset"), gateway.champion.catalogue, gateway.data
    )
    for path, (file, media) in PAGES.items():
        _serve_file(router, path, file, media)

    @router.get("/v1/console")
    async def status() -> StatusAnswer:
        return StatusAnswer(
            release=gateway.release,
            watch=gateway.figures(),
            deployments=await asyncio.to_thread(replicas.deployments),
            max_picture_bytes=gateway.data.max_picture_bytes,
            example=samples.dataset is not None,
        )

    @router.get("/v1/console/example")
    async def example() -> ExampleAnswer:
        found = await asyncio.to_thread(samples.example)
        if found is None:
            raise ApiError(404, "not_found", samples.why or "no item of the dataset is without train events")
        item_id, content = found
        picture = await asyncio.to_thread(samples.picture, content)
        return ExampleAnswer(item_id=item_id, title=content.title, text=content.text, picture=picture)

    @router.post("/v1/console/look")
    async def look(request: LookRequest) -> LookAnswer:
        arm = gateway.champion
        proxy = (await arm.read(Content(request.title, request.text, request.picture or None), None)).vector
        near, _ = await gateway.items.nearest(proxy, _NEIGHBOURS)
        cards = await asyncio.to_thread(samples.cards, [one.item_id for one in near])
        users = await asyncio.to_thread(samples.users)
        scores = await arm.score([user.query(proxy) for user in users])
        return LookAnswer(
            release=arm.release.release,
            neighbours=[
                Card(item_id=one.item_id, cosine=one.cosine, title=title, picture=picture)
                for one, (title, picture) in zip(near, cards, strict=True)
            ],
            users=[
                UserRates(user_id=user.user_id, liked=user.liked, proxy=float(both[0]), oov=float(both[1]))
                for user, both in zip(users, scores, strict=True)
            ],
            histories=samples.histories,
            pictures=samples.why,
        )

    return router


def _serve_file(router: APIRouter, path: str, file: str, media: str) -> None:
    body = (_FILES / file).read_bytes()

    @router.get(path)
    async def page() -> Response:
        return Response(body, media_type=media, headers=HEADERS)
