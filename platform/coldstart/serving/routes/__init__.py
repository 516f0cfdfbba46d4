"""The paths of the API, one module per noun; each has `routes(gateway)`, which answers a router."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from coldstart.serving.routes import console, docs, items, rank, release, watch

if TYPE_CHECKING:
    from coldstart.serving.gateway import Gateway

__all__ = ["routers"]


def routers(gateway: "Gateway") -> list[APIRouter]:
    """All routers of one gateway, in the order of the documentation."""
    return [noun.routes(gateway) for noun in (rank, items, release, watch, console, docs)]
