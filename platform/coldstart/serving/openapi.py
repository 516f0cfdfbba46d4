"""What the API says of itself: FastAPI's own description, and what routes that read their body by hand add to it."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from coldstart.serving.schemas import RankRequest, RankRequests

REF = "#/components/schemas/{model}"
_ABOUT = """Rank items that nobody has clicked yet beside those that many have.

Every answer that is not 200 has the body `{"error": {"code": ..., "message": ...}}`. Codes are stable, messages are for
people. 429 and 503 come with `Retry-After`. Where the server asks for tokens, send `Authorization: Bearer <token>`.
Bodies are strict JSON: unknown and duplicate keys, NaN and values of another type are refused. Prometheus reads the
metrics from Ray's own endpoint."""


def describe(app: FastAPI, *, tokens: bool) -> None:
    """Completes the description of an application.

    Args:
        app: With all its routes.
        tokens: Whether requests need one.
    """
    app.description = _ABOUT
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = plain()
            components = described.setdefault("components", {})
            _, made = models_json_schema([(RankRequest, "validation"), (RankRequests, "validation")], ref_template=REF)
            components["schemas"] = made["$defs"] | components.get("schemas", {})
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in described["paths"].items():
                for operation in methods.values():
                    if tokens and path.startswith("/v1/"):
                        operation["security"] = [{"token": []}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
