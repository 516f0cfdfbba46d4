"""The operations of the API as data: what is sent, what comes back, and whether it may be sent twice."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

from pydantic import BaseModel

from coldstart.client.connection import JSON
from coldstart.client.retries import Answer
from coldstart.serving.schemas import (
    ARROW,
    Feedback,
    FeedbackAnswer,
    FeedbackRequest,
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
from coldstart.serving.watch_answers import WatchAnswer

if TYPE_CHECKING:
    import pyarrow as pa

Typed = TypeVar("Typed", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One operation, ready to be sent, and again where need be: scoring, reading and replacing may happen twice.

    Attributes:
        method: HTTP method.
        path: Below the server's URL.
        read: Bytes of the body -> the answer; raises ValueError if they are none.
        body: None for no body.
        headers: Of the body, and what else every attempt must say alike.
    """

    method: str
    path: str
    read: Callable[[bytes], Answer]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _get(path: str, answer: type[Typed]) -> Call[Typed]:
    return Call("GET", path, answer.model_validate_json)


def _post(path: str, request: BaseModel, answer: type[Typed]) -> Call[Typed]:
    body = request.model_dump_json(exclude_unset=True).encode()
    return Call("POST", path, answer.model_validate_json, body, JSON)


def _quoted(item_id: str) -> str:
    return quote(item_id, safe="")


def rank(request: RankRequest) -> Call[RankAnswer]:
    """Score candidates for a user."""
    return _post("/v1/rank", request, RankAnswer)


def rank_many(request: RankRequests) -> Call[RankAnswers]:
    """Score candidates for several users."""
    return _post("/v1/rank", request, RankAnswers)


def rank_arrow(users: "pa.RecordBatch") -> "Call[pa.RecordBatch]":
    """Score candidates for several users, in columns."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, users.schema) as writer:
        writer.write_batch(users)

    def read(body: bytes) -> "pa.RecordBatch":
        (batch,) = pa.ipc.open_stream(body)
        return batch

    return Call("POST", "/v1/rank", read, sink.getvalue().to_pybytes(), {"content-type": ARROW})


def publish(request: PublishRequest) -> Call[PublishAnswer]:
    """Publish an item, or replace its content."""
    return _post("/v1/items", request, PublishAnswer)


def publish_many(items: Iterable[PublishRequest]) -> Call[PublishAnswers]:
    """Publish items, each with an outcome of its own."""
    body = b",".join(item.model_dump_json(exclude_unset=True).encode() for item in items)
    return Call("POST", "/v1/items", PublishAnswers.model_validate_json, b'{"items":[' + body + b"]}", JSON)


def item(item_id: str) -> Call[ItemAnswer]:
    """What is known of an item."""
    return _get(f"/v1/items/{_quoted(item_id)}", ItemAnswer)


def withdraw(item_id: str) -> Call[WithdrawAnswer]:
    """Make an item unknown again."""
    return Call("DELETE", f"/v1/items/{_quoted(item_id)}", WithdrawAnswer.model_validate_json)


def neighbours(item_id: str, k: int) -> Call[NeighboursAnswer]:
    """Mature items nearest to an item's proxy."""
    return _get(f"/v1/items/{_quoted(item_id)}/neighbours?k={k}", NeighboursAnswer)


def release() -> Call[ReleaseAnswer]:
    """What is served."""
    return _get("/v1/release", ReleaseAnswer)


def ready() -> Call[HealthAnswer]:
    """Answered when all models answer a golden request."""
    return _get("/readyz", HealthAnswer)


def feedback(events: Iterable[Feedback]) -> Call[FeedbackAnswer]:
    """Say what users did; sent again it counts once, because every attempt has the same id."""
    body = FeedbackRequest(events=list(events)).model_dump_json(exclude_unset=True).encode()
    headers = JSON | {"x-request-id": uuid4().hex}
    return Call("POST", "/v1/feedback", FeedbackAnswer.model_validate_json, body, headers)


def watch() -> Call[WatchAnswer]:
    """How serving does."""
    return _get("/v1/watch", WatchAnswer)
