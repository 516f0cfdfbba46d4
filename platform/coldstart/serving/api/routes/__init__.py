"""The paths of the API, one module per noun; `routes(gateway)` of each returns its router."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.api.routes import console, docs, items, rank, release, stats

if TYPE_CHECKING:
    from coldstart.serving.deployment.gateway import Gateway

__all__ = ["routers"]


def routers(gateway: "Gateway") -> list[APIRouter]:
    """All routers of one gateway, in the order of the API page."""
    return [noun.routes(gateway) for noun in (rank, items, release, stats, console, docs)]
