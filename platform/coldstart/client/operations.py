"""The operations of the API as data: request, decoder of the response, and headers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

from pydantic import BaseModel

from coldstart.client.connection import JSON
from coldstart.client.retries import ResponseT
from coldstart.serving.api import schemas
from coldstart.serving.monitoring import stats_schemas

if TYPE_CHECKING:
    import pyarrow as pa

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[ResponseT]):
    """One operation, ready to be sent; all operations are safe to repeat.

    Attributes:
        method: HTTP method.
        path: Below the server's URL.
        decode: Converts the body; raises ValueError on an invalid one.
        body: `None` for no body.
        headers: The same for every attempt.
    """

    method: str
    path: str
    decode: Callable[[bytes], ResponseT]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _get(path: str, response: type[ModelT]) -> Call[ModelT]:
    return Call("GET", path, response.model_validate_json)


def _post(path: str, request: BaseModel, response: type[ModelT]) -> Call[ModelT]:
    body = request.model_dump_json(exclude_unset=True).encode()
    return Call("POST", path, response.model_validate_json, body, JSON)


def _quoted(item_id: str) -> str:
    return quote(item_id, safe="")


def rank(request: schemas.RankRequest) -> Call[schemas.RankResponse]:
    """Score candidates for a user."""
    return _post("/v1/rank", request, schemas.RankResponse)


def rank_many(request: schemas.RankBatchRequest) -> Call[schemas.RankBatchResponse]:
    """Score candidates for several users."""
    return _post("/v1/rank", request, schemas.RankBatchResponse)


def rank_arrow(users: "pa.RecordBatch") -> "Call[pa.RecordBatch]":
    """Score candidates for several users, in Arrow format."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, users.schema) as writer:
        writer.write_batch(users)

    def decode(body: bytes) -> "pa.RecordBatch":
        (batch,) = pa.ipc.open_stream(body)
        return batch

    return Call("POST", "/v1/rank", decode, sink.getvalue().to_pybytes(), {"content-type": schemas.ARROW})


def publish(request: schemas.PublishRequest) -> Call[schemas.PublishResponse]:
    """Publish an item, or replace its content."""
    return _post("/v1/items", request, schemas.PublishResponse)


def publish_many(items: Iterable[schemas.PublishRequest]) -> Call[schemas.PublishBatchResponse]:
    """Publish items; each succeeds or fails separately."""
    body = b",".join(item.model_dump_json(exclude_unset=True).encode() for item in items)
    decode = schemas.PublishBatchResponse.model_validate_json
    return Call("POST", "/v1/items", decode, b'{"items":[' + body + b"]}", JSON)


def item(item_id: str) -> Call[schemas.ItemResponse]:
    """Get what is stored about an item."""
    return _get(f"/v1/items/{_quoted(item_id)}", schemas.ItemResponse)


def withdraw(item_id: str) -> Call[schemas.WithdrawResponse]:
    """Withdraw an item."""
    return Call("DELETE", f"/v1/items/{_quoted(item_id)}", schemas.WithdrawResponse.model_validate_json)


def neighbors(item_id: str, k: int) -> Call[schemas.NeighborsResponse]:
    """Get the mature items nearest to an item's proxy."""
    return _get(f"/v1/items/{_quoted(item_id)}/neighbors?k={k}", schemas.NeighborsResponse)


def release() -> Call[schemas.ReleaseResponse]:
    """Get the release that is served."""
    return _get("/v1/release", schemas.ReleaseResponse)


def ready() -> Call[schemas.HealthResponse]:
    """Succeeds when all models respond to a golden request."""
    return _get("/readyz", schemas.HealthResponse)


def feedback(events: Iterable[schemas.Feedback]) -> Call[schemas.FeedbackResponse]:
    """Report clicks and non-clicks; a retry does not count twice, because every attempt has the same request id."""
    body = schemas.FeedbackRequest(events=list(events)).model_dump_json(exclude_unset=True).encode()
    headers = JSON | {"x-request-id": uuid4().hex}
    return Call("POST", "/v1/feedback", schemas.FeedbackResponse.model_validate_json, body, headers)


def stats() -> Call[stats_schemas.ServingStats]:
    """Get serving statistics."""
    return _get("/v1/stats", stats_schemas.ServingStats)
