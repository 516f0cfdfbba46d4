"""Request and response schemas. Requests are strict and bounded; any other request gets 422 before any work."""

import base64
import binascii
from typing import Annotated, Any, Literal, NotRequired, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

ARROW = "application/vnd.apache.arrow.stream"
"""Media type of Arrow rank requests and responses."""
MAX_HISTORY = 10_000
MAX_CONTENTS = 32
"""Maximum number of candidates by content in one request; each costs a forward pass of the encoder."""
MAX_USERS = 64
"""Maximum number of users in one request."""
MAX_FEATURES = 200
MAX_NEIGHBORS = 100
MAX_ID = 256
LAST_SECOND = 253_402_300_799  # of the year 9999


def _decode(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not valid base64") from error


def _limit_features(value: Any) -> Any:
    # Checked first, because pydantic counts the keys of a dictionary only after it has read all values.
    if isinstance(value, dict) and len(value) > MAX_FEATURES:
        raise ValueError(f"{len(value)} features are sent, at most {MAX_FEATURES} are allowed")
    return value


ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
UserId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Time = Annotated[int, Field(ge=0, le=LAST_SECOND, description="Unix seconds")]
Name = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Features = Annotated[
    dict[Name, Annotated[str, Field(max_length=1_000)] | bool | Integer | Number | None],
    Field(json_schema_extra={"maxProperties": MAX_FEATURES}),
    BeforeValidator(_limit_features),
]
"""Feature -> raw value, as in the ranker's training tables; features that are not sent are missing."""
Title = Annotated[str, Field(max_length=2_000)]
Text = Annotated[str, Field(max_length=20_000)]
ImageBytes = Annotated[
    bytes,
    BeforeValidator(_decode),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "JPEG, PNG, WebP, GIF or BMP"}),
]


class StrictModel(BaseModel):
    """Base of all request bodies: unknown keys and type conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ItemContent(StrictModel):
    """Content of an item; any part may be missing."""

    features: Features | None = Field(default=None, description="the item's features")
    title: Title | None = None
    text: Text | None = None
    image: ImageBytes | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no image, title or text."""
        return not (self.title or self.text or self.image)


class PublishRequest(ItemContent):
    """A new item, or new content of a published item."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"item_id": "new-1", "title": "Witty poetry tips", "text": "in ten minutes"}]}
    )

    item_id: ItemId

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.empty:
            raise ValueError("send at least one of title, text and image")
        return self


_STRICT = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
class Candidate(TypedDict):
    """An item to score: by id, or by content."""

    item_id: NotRequired[ItemId | None]
    title: NotRequired[Title | None]
    text: NotRequired[Text | None]
    image: NotRequired[ImageBytes | None]
    features: NotRequired[Annotated[Features | None, Field(description="features of a candidate by content")]]


@with_config(_STRICT)
class HistoryEvent(TypedDict):
    """One impression the user had."""

    item_id: ItemId
    label: Annotated[int, Field(ge=0, le=1, description="1 if clicked")]
    timestamp: Time


class RankRequest(StrictModel):
    """Score candidates for a user. The ranker reads the latest events that are strictly earlier than `now`."""

    # Events and candidates are dictionaries, not models: there are many, and a model takes twice the time.
    history: Annotated[list[HistoryEvent], Field(max_length=MAX_HISTORY), FailFast()] = Field(default_factory=list)
    candidates: Annotated[list[Candidate], Field(min_length=1), FailFast()]
    user_id: UserId | None = Field(default=None, description="the user; chooses between champion and challenger")
    now: Time | None = Field(default=None, description="Unix seconds; default the server's clock")
    user_features: Features = Field(default_factory=dict, description="features of the user")
    context: Features = Field(default_factory=dict, description="features of the moment: device, place")

    @model_validator(mode="after")
    def _check_candidates(self) -> Self:
        contents = 0
        for position, candidate in enumerate(self.candidates):
            if candidate.get("item_id") is None:
                contents += 1
                if not (candidate.get("title") or candidate.get("text") or candidate.get("image")):
                    raise ValueError(f"candidates.{position}: {_ID_OR_CONTENT}")
            elif len(candidate) > 1:
                _refuse_content_with_id(position, candidate)
        if contents > MAX_CONTENTS:
            raise ValueError(f"{contents} candidates are sent by content, at most {MAX_CONTENTS} are allowed")
        return self


_ID_OR_CONTENT = "send either item_id, or content (title, text, image)"


def _refuse_content_with_id(position: int, candidate: Candidate) -> None:
    if candidate.get("title") or candidate.get("text") or candidate.get("image"):
        raise ValueError(f"candidates.{position}: {_ID_OR_CONTENT}")
    if candidate.get("features") is not None:
        raise ValueError(
            f"candidates.{position}: an item sent by item_id has the features that it was published with; "
            "leave out features"
        )


class RankBatchRequest(StrictModel):
    """Requests of several users; the server answers all of them or none."""

    requests: Annotated[list[RankRequest], Field(min_length=1, max_length=MAX_USERS), FailFast()]


RequestId = Annotated[str, Field(min_length=1, max_length=64, description="X-Request-Id of the rank response")]


class Feedback(StrictModel):
    """What a user did with a ranked item. Send it once, when it is final: only the first one counts."""

    item_id: ItemId
    label: Annotated[int, Field(ge=0, le=1, description="1 if clicked, 0 if shown and not clicked")]
    request_id: RequestId | None = None
    user_id: UserId | None = Field(default=None, description="without request_id: refers to the user's latest response")

    @model_validator(mode="after")
    def _refers_to_a_response(self) -> Self:
        if self.request_id is None and self.user_id is None:
            raise ValueError("send request_id or user_id")
        return self


class FeedbackRequest(StrictModel):
    """Feedback on items; items that were shown and not clicked matter as much as clicked ones.

    A request that is sent again with the same X-Request-Id is counted once.
    """

    events: Annotated[list[Feedback], Field(min_length=1, max_length=1_000)]


class FeedbackResponse(BaseModel):
    """Feedback was accepted; the server matches it with its responses within seconds, if it still has them."""

    accepted: int


class PublishResponse(BaseModel):
    """The item can be ranked from now on, also after a restart."""

    item_id: str
    proxy_norm: float
    release: str
    ms: float


class ErrorDetail(BaseModel):
    """Why a request failed."""

    code: str
    message: str


class PublishOutcome(BaseModel):
    """The outcome of one item of several; `error` is null if it can be ranked from now on."""

    item_id: str | None
    proxy_norm: float | None = None
    error: ErrorDetail | None = None


class PublishBatchResponse(BaseModel):
    """One outcome per item, in the order of the request; a failed item does not affect the others."""

    items: list[PublishOutcome]
    published: int
    failed: int
    release: str
    ms: float


SlotSource = Literal["id", "blended", "proxy", "oov"]
SLOT_SOURCES: tuple[SlotSource, ...] = get_args(SlotSource)


class ItemResponse(BaseModel):
    """An item.

    `slot_source` is the source of its slot in the ranker, as in the response of /v1/rank.
    """

    item_id: str
    slot_source: SlotSource
    proxy_norm: float | None = Field(description="norm of its proxy; null if it has none in this release")
    semantic_id: list[int] | None = Field(
        description="its code at each level, from the coarsest; null if the method has no codes, or the item no row"
    )
    in_catalog: bool = Field(description="whether the catalog of the release contains it")
    origin: Literal["api", "catalog"] | None = Field(description="how it was published; null if it was not")
    published_at: float | None = Field(description="Unix seconds")
    rankable_at: float | None = Field(description="Unix seconds; when its proxy in this release was stored")
    title: str | None
    features: Features | None = Field(description="features it was published with; null without")
    release: str


class WithdrawResponse(BaseModel):
    """The item is unknown from now on, until it is published again."""

    item_id: str
    release: str


class Neighbor(BaseModel):
    """A mature item, and the cosine between its trained ID row and the proxy."""

    item_id: str
    cosine: float


class NeighborsResponse(BaseModel):
    """Mature items, nearest first; `search` is `exact`, or `index` for an approximate search."""

    item_id: str
    neighbors: list[Neighbor]
    search: Literal["exact", "index"]
    release: str


class RankResponse(BaseModel):
    """Click probabilities in candidate order.

    `slot_sources` names the source of each candidate's slot: its trained ID row (`id`), the proxy of its content
    (`proxy`), a blend of both while it warms up (`blended`), or the row of unknown items (`oov`).
    """

    scores: list[float]
    slot_sources: list[SlotSource]
    release: str
    ms: float


class RankBatchResponse(BaseModel):
    """One response per user, in the order of the requests."""

    responses: list[RankResponse]


class ABTestStatus(BaseModel):
    """A challenger on live traffic.

    `state` is `answering` (it serves its fraction of users), `shadow` (its scores are not returned) or `aborted`.
    """

    release: str
    versions: dict[str, int]
    state: Literal["answering", "shadow", "aborted"]
    traffic_fraction: float
    reason: str | None = Field(default=None, description="why it was aborted")
    aborted_at: float | None = Field(default=None, description="Unix seconds")


class ReleaseResponse(BaseModel):
    """The served release."""

    release: str
    project: str
    alias: str | None
    versions: dict[str, int]
    fingerprints: dict[str, str]
    challenger: ABTestStatus | None = None


class AliveResponse(BaseModel):
    """The gateway is alive."""

    status: Literal["alive"]


class HealthResponse(BaseModel):
    """The models are loaded and scored a golden request."""

    status: Literal["ready"]
    release: str


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: ErrorDetail
