"""The operations of the API as data: what is sent, what comes back, and whether it may be sent twice."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic
from urllib.parse import quote

from pydantic import BaseModel

from coldstart.client.retries import Answer
from coldstart.serving.schemas import (
    HealthAnswer,
    ItemAnswer,
    NeighboursAnswer,
    PublishAnswer,
    PublishAnswers,
    PublishRequest,
    RankAnswer,
    RankAnswers,
    RankRequest,
    RankRequests,
    ReleaseAnswer,
    WithdrawAnswer,
)


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One operation, ready to be sent.

    Attributes:
        method: HTTP method.
        path: Below the server's URL.
        answer: Type of the answer.
        body: JSON; None for no body.
        safe: Whether the server may do it twice: scoring, reading and replacing may.
    """

    method: str
    path: str
    answer: type[Answer]
    body: bytes | None = None
    safe: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _post(path: str, request: BaseModel, answer: type[Answer], *, safe: bool = True) -> Call[Answer]:
    body = request.model_dump_json(exclude_unset=True).encode()
    return Call("POST", path, answer, body, safe)


def _quoted(item_id: str) -> str:
    return quote(item_id, safe="")


def rank(request: RankRequest) -> Call[RankAnswer]:
    """Score candidates for a user."""
    return _post("/v1/rank", request, RankAnswer)


def rank_many(request: RankRequests) -> Call[RankAnswers]:
    """Score candidates for several users."""
    return _post("/v1/rank", request, RankAnswers)


def publish(request: PublishRequest) -> Call[PublishAnswer]:
    """Publish an item, or replace its content."""
    return _post("/v1/items", request, PublishAnswer)


def publish_many(items: Iterable[PublishRequest]) -> Call[PublishAnswers]:
    """Publish items, each with an outcome of its own."""
    body = b",".join(item.model_dump_json(exclude_unset=True).encode() for item in items)
    return Call("POST", "/v1/items", PublishAnswers, b'{"items":[' + body + b"]}")


def item(item_id: str) -> Call[ItemAnswer]:
    """What is known of an item."""
    return Call("GET", f"/v1/items/{_quoted(item_id)}", ItemAnswer)


def withdraw(item_id: str) -> Call[WithdrawAnswer]:
    """Make an item unknown again."""
    return Call("DELETE", f"/v1/items/{_quoted(item_id)}", WithdrawAnswer)


def neighbours(item_id: str, k: int) -> Call[NeighboursAnswer]:
    """Mature items nearest to an item's proxy."""
    return Call("GET", f"/v1/items/{_quoted(item_id)}/neighbours?k={k}", NeighboursAnswer)


def release() -> Call[ReleaseAnswer]:
    """What is served."""
    return Call("GET", "/v1/release", ReleaseAnswer)


def ready() -> Call[HealthAnswer]:
    """Answered when all models answer a golden request."""
    return Call("GET", "/readyz", HealthAnswer)
