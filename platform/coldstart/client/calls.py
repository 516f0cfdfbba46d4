"""The operations of the API as data: what is sent, what comes back, and whether it may be sent twice."""

from dataclasses import dataclass
from typing import Generic

from pydantic import BaseModel

from coldstart.client.retries import Answer
from coldstart.serving.schemas import (
    HealthAnswer,
    PublishAnswer,
    PublishRequest,
    RankAnswer,
    RankRequest,
    ReleaseAnswer,
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


def rank(request: RankRequest) -> Call[RankAnswer]:
    """Score candidates for a user."""
    return _post("/v1/rank", request, RankAnswer)


def publish(request: PublishRequest) -> Call[PublishAnswer]:
    """Publish an item, or replace its content."""
    return _post("/v1/items", request, PublishAnswer)


def release() -> Call[ReleaseAnswer]:
    """What is served."""
    return Call("GET", "/v1/release", ReleaseAnswer)


def ready() -> Call[HealthAnswer]:
    """Answered when all models answer a golden request."""
    return Call("GET", "/readyz", HealthAnswer)
