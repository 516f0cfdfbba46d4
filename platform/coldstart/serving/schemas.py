"""What a request may hold and what an answer holds: strict and bounded, anything else is a 422 before any work."""

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
"""Media type of the compact form of ranking."""
MAX_HISTORY = 10_000
MAX_CONTENTS = 32
"""Most candidates of one request that are given by content; each costs a pass of the encoder."""
MAX_USERS = 64
"""Most users of one request."""
MAX_FEATURES = 200
MAX_NEIGHBOURS = 100
MAX_ID = 256
LAST_SECOND = 253_402_300_799  # of the year 9999


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not valid base64") from error


def _few(value: Any) -> Any:
    # Looked at first: pydantic counts a dictionary only after it has read all of it.
    if isinstance(value, dict) and len(value) > MAX_FEATURES:
        raise ValueError(f"{len(value)} features are given, at most {MAX_FEATURES} are allowed")
    return value


ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
UserId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Time = Annotated[int, Field(ge=0, le=LAST_SECOND, description="Unix seconds")]
Name = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Features = Annotated[
    dict[Name, Annotated[str, Field(max_length=1_000)] | bool | Whole | Number | None],
    Field(json_schema_extra={"maxProperties": MAX_FEATURES}),
    BeforeValidator(_few),
]
"""Feature -> raw value, as in the tables the ranker was trained on; what is not given is missing."""
Title = Annotated[str, Field(max_length=2_000)]
Text = Annotated[str, Field(max_length=20_000)]
Picture = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "JPEG, PNG, WebP, GIF or BMP"}),
]


class Strict(BaseModel):
    """Base of all request bodies: no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Parts(Strict):
    """Content of an item; any part may be missing."""

    features: Features | None = Field(default=None, description="the item's features")
    title: Title | None = None
    text: Text | None = None
    picture: Picture | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not (self.title or self.text or self.picture)


class PublishRequest(Parts):
    """A new item, or new content of one that was published before."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"item_id": "new-1", "title": "Witty poetry tips", "text": "in ten minutes"}]}
    )

    item_id: ItemId

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if self.empty:
            raise ValueError("give at least one of title, text and picture")
        return self


_CLOSED = ConfigDict(extra="forbid", strict=True)


@with_config(_CLOSED)
class Candidate(TypedDict):
    """An item to score: by id, or by content."""

    item_id: NotRequired[ItemId | None]
    title: NotRequired[Title | None]
    text: NotRequired[Text | None]
    picture: NotRequired[Picture | None]
    features: NotRequired[Annotated[Features | None, Field(description="of an item given by content")]]


@with_config(_CLOSED)
class HistoryEvent(TypedDict):
    """One impression the user had."""

    item_id: ItemId
    label: Annotated[int, Field(ge=0, le=1, description="1 if clicked")]
    timestamp: Time


class RankRequest(Strict):
    """Score candidates for a user. Only events strictly earlier than `now` are read, the latest of them."""

    # Events and candidates are dictionaries, not models: they are many, and a model costs twice the time.
    history: Annotated[list[HistoryEvent], Field(max_length=MAX_HISTORY), FailFast()] = Field(default_factory=list)
    candidates: Annotated[list[Candidate], Field(min_length=1), FailFast()]
    user_id: UserId | None = Field(default=None, description="who asks; decides which of two releases answers")
    now: Time | None = Field(default=None, description="Unix seconds; default the server's clock")
    user_features: Features = Field(default_factory=dict, description="what is known of the user")
    context: Features = Field(default_factory=dict, description="what is known of the moment: device, place")

    @model_validator(mode="after")
    def _ids_or_contents(self) -> Self:
        contents = 0
        for position, candidate in enumerate(self.candidates):
            if candidate.get("item_id") is None:
                contents += 1
                if not (candidate.get("title") or candidate.get("text") or candidate.get("picture")):
                    raise ValueError(f"candidates.{position}: {_EITHER}")
            elif len(candidate) > 1:
                _only_an_id(position, candidate)
        if contents > MAX_CONTENTS:
            raise ValueError(f"{contents} candidates are given by content, at most {MAX_CONTENTS} are allowed")
        return self


_EITHER = "give either item_id, or content (title, text, picture)"


def _only_an_id(position: int, candidate: Candidate) -> None:
    if candidate.get("title") or candidate.get("text") or candidate.get("picture"):
        raise ValueError(f"candidates.{position}: {_EITHER}")
    if candidate.get("features") is not None:
        raise ValueError(
            f"candidates.{position}: features of an item given by item_id are those it was published with; "
            "leave them out"
        )


class RankRequests(Strict):
    """Several users at once; all are answered, or none."""

    requests: Annotated[list[RankRequest], Field(min_length=1, max_length=MAX_USERS), FailFast()]


RequestId = Annotated[str, Field(min_length=1, max_length=64, description="X-Request-Id of the answer it is about")]


class Feedback(Strict):
    """What a user did with an item that was ranked for him. Send the final word once: the first one counts."""

    item_id: ItemId
    label: Annotated[int, Field(ge=0, le=1, description="1 if clicked, 0 if shown and not clicked")]
    request_id: RequestId | None = None
    user_id: UserId | None = Field(default=None, description="without request_id: the user's latest answer is meant")

    @model_validator(mode="after")
    def _names_an_answer(self) -> Self:
        if self.request_id is None and self.user_id is None:
            raise ValueError("give request_id, or user_id")
        return self


class FeedbackRequest(Strict):
    """Feedback on items; those that were shown and not clicked count as much as those that were clicked.

    A request that is sent again with the same X-Request-Id counts once.
    """

    events: Annotated[list[Feedback], Field(min_length=1, max_length=1_000)]


class FeedbackAnswer(BaseModel):
    """Taken; which answers it belongs to is found out within seconds, if they are still remembered."""

    accepted: int


class PublishAnswer(BaseModel):
    """The item is rankable from now on, and after a restart."""

    item_id: str
    proxy_norm: float
    release: str
    ms: float


class Problem(BaseModel):
    """Why a request failed."""

    code: str
    message: str


class PublishOutcome(BaseModel):
    """What became of one item of several; `error` is null if it is rankable from now on."""

    item_id: str | None
    proxy_norm: float | None = None
    error: Problem | None = None


class PublishAnswers(BaseModel):
    """One outcome per item, in the order of the request; an item that fails does not hold up the others."""

    items: list[PublishOutcome]
    published: int
    failed: int
    release: str
    ms: float


Vector = Literal["id", "blend", "fine", "oov"]
VECTORS: tuple[Vector, ...] = get_args(Vector)


class ItemAnswer(BaseModel):
    """What is known of an item.

    `vector` says what stands for it when it is ranked, as in the answer of /v1/rank.
    """

    item_id: str
    vector: Vector
    proxy_norm: float | None = Field(description="length of its fine proxy; null if it has none in this release")
    in_catalogue: bool = Field(description="whether the release was trained with it in the catalogue")
    origin: Literal["api", "catalogue"] | None = Field(description="who published it; null if nobody did")
    published_at: float | None = Field(description="Unix seconds")
    rankable_at: float | None = Field(description="Unix seconds; when its proxy in this release was stored")
    title: str | None
    features: Features | None = Field(description="as it was published with; null if with none")
    release: str


class WithdrawAnswer(BaseModel):
    """The item is an unknown one from now on, until it is published again."""

    item_id: str
    release: str


class Neighbour(BaseModel):
    """A mature item, and the cosine of its trained ID row with the proxy."""

    item_id: str
    cosine: float


class NeighboursAnswer(BaseModel):
    """Mature items, the nearest first; `search` says whether all were compared or an index was asked."""

    item_id: str
    neighbours: list[Neighbour]
    search: Literal["exact", "index"]
    release: str


class RankAnswer(BaseModel):
    """Click probabilities in candidate order.

    `vectors` says what stood for each candidate: its trained ID row (`id`), the proxy of its content (`fine`), both
    while it warms up (`blend`), or the row of unknown items (`oov`).
    """

    scores: list[float]
    vectors: list[Vector]
    release: str
    ms: float


class RankAnswers(BaseModel):
    """One answer per user, in the order of the requests."""

    answers: list[RankAnswer]


class TrialAnswer(BaseModel):
    """A challenger on live traffic.

    `state` is `answering` (it answers its share of users), `shadow` (it scores unseen) or `aborted`.
    """

    release: str
    versions: dict[str, int]
    state: Literal["answering", "shadow", "aborted"]
    share: float
    reason: str | None = Field(default=None, description="why it was aborted")
    aborted_at: float | None = Field(default=None, description="Unix seconds")


class ReleaseAnswer(BaseModel):
    """What is served."""

    release: str
    project: str
    alias: str | None
    versions: dict[str, int]
    fingerprints: dict[str, str]
    challenger: TrialAnswer | None = None


class AliveAnswer(BaseModel):
    """The gateway answers."""

    status: Literal["alive"]


class HealthAnswer(BaseModel):
    """Models are loaded and a golden request was scored."""

    status: Literal["ready"]
    release: str


class ErrorAnswer(BaseModel):
    """Body of every answer that is not 200."""

    error: Problem
