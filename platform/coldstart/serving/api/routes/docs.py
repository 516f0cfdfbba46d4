"""The page that documents the API; it loads nothing from the network."""

from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; " + "; ".join(
    f"{kind} 'self' 'unsafe-inline'" for kind in ("script-src", "style-src")
)


def routes(gateway: "Gateway") -> APIRouter:
    """Paths of the API page."""
    router = APIRouter(include_in_schema=False)
    resources = files("fastapi_swagger") / "resources"

    @router.get("/docs")
    async def page() -> Response:
        response = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"coldstart: {gateway.release.project}",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon-32x32.png",
        )
        response.headers["content-security-policy"] = _CONTENT_SECURITY_POLICY
        return response

    @router.get("/docs/{name}")
    async def part(name: str) -> Response:
        if name not in _MEDIA_TYPES:
            return Response(status_code=404)
        headers = {"cache-control": "public, max-age=86400"}
        return Response((resources / name).read_bytes(), media_type=_MEDIA_TYPES[name], headers=headers)

    return router
