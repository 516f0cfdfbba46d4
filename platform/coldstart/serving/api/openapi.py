"""The OpenAPI document: FastAPI's own, and the schemas of routes that parse their body themselves."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from coldstart.serving.api.schemas import RankBatchRequest, RankRequest

REF = "#/components/schemas/{model}"
_DESCRIPTION = """Rank brand-new items together with items that already have clicks.

Every error response has the body `{"error": {"code": ..., "message": ...}}`. Codes are stable, messages are for people.
429 and 503 come with `Retry-After`. If the server requires tokens, send `Authorization: Bearer <token>`. Bodies are
strict JSON: unknown and duplicate keys, NaN and values of another type are refused. Prometheus reads the metrics from
Ray's own endpoint."""


def complete_schema(app: FastAPI, *, tokens: bool) -> None:
    """Completes the OpenAPI document of an application.

    Args:
        app: The application with all its routes.
        tokens: Whether requests need a token.
    """
    app.description = _DESCRIPTION
    default_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = default_openapi()
            components = document.setdefault("components", {})
            _, models = models_json_schema(
                [(RankRequest, "validation"), (RankBatchRequest, "validation")], ref_template=REF
            )
            components["schemas"] = models["$defs"] | components.get("schemas", {})
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in document["paths"].items():
                for operation in methods.values():
                    if tokens and path.startswith("/v1/"):
                        operation["security"] = [{"token": []}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
