"""What a request may hold and what an answer holds: strict and bounded, anything else is a 422 before any work."""

import base64
import binascii
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

MAX_HISTORY = 10_000
MAX_CONTENTS = 32
"""Most candidates of one request that are given by content; each costs a pass of the encoder."""
_LAST_SECOND = 253_402_300_799  # of the year 9999


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not valid base64") from error


ItemId = Annotated[str, Field(min_length=1, max_length=256)]
Time = Annotated[int, Field(ge=0, le=_LAST_SECOND, description="Unix seconds")]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Features = Annotated[
    dict[Name, Annotated[str, Field(max_length=1_000)] | bool | int | Number | None], Field(max_length=200)
]
"""Feature -> raw value, as in the tables the ranker was trained on; what is not given is missing."""
Picture = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "JPEG, PNG, WebP, GIF or BMP"}),
]


class Strict(BaseModel):
    """Base of all request bodies: no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Parts(Strict):
    """Content of an item; any part may be missing."""

    features: Features | None = Field(default=None, description="the item's features")
    title: Annotated[str, Field(max_length=2_000)] | None = None
    text: Annotated[str, Field(max_length=20_000)] | None = None
    picture: Picture | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not (self.title or self.text or self.picture)


class PublishRequest(Parts):
    """A new item, or new content of one that was published before."""

    item_id: ItemId

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if self.empty:
            raise ValueError("give at least one of title, text and picture")
        return self


class Candidate(Parts):
    """An item to score: by id, or by content."""

    item_id: ItemId | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.item_id is None) == self.empty:
            raise ValueError("give either item_id, or content (title, text, picture)")
        if self.item_id is not None and self.features is not None:
            raise ValueError("features of an item given by item_id are those it was published with; leave them out")
        return self


class HistoryEvent(Strict):
    """One impression the user had."""

    item_id: ItemId
    label: Annotated[int, Field(ge=0, le=1, description="1 if clicked")]
    timestamp: Time


class RankRequest(Strict):
    """Score candidates for a user. Only events strictly earlier than `now` are read, the latest of them."""

    history: Annotated[list[HistoryEvent], Field(max_length=MAX_HISTORY)] = Field(default_factory=list)
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    now: Time | None = Field(default=None, description="Unix seconds; default the server's clock")
    user_features: Features = Field(default_factory=dict, description="what is known of the user")
    context: Features = Field(default_factory=dict, description="what is known of the moment: device, place")

    @model_validator(mode="after")
    def _few_contents(self) -> Self:
        contents = sum(candidate.item_id is None for candidate in self.candidates)
        if contents > MAX_CONTENTS:
            raise ValueError(f"{contents} candidates are given by content, at most {MAX_CONTENTS} are allowed")
        return self


class PublishAnswer(BaseModel):
    """The item is rankable from now on, and after a restart."""

    item_id: str
    proxy_norm: float
    release: str
    ms: float


Vector = Literal["id", "fine", "oov"]


class RankAnswer(BaseModel):
    """Click probabilities in candidate order.

    `vectors` says what stood for each candidate: its trained ID row (`id`), the proxy of its content (`fine`), or the
    row of unknown items (`oov`).
    """

    scores: list[float]
    vectors: list[Vector]
    release: str
    ms: float


class ReleaseAnswer(BaseModel):
    """What is served."""

    release: str
    project: str
    alias: str | None
    versions: dict[str, int]
    fingerprints: dict[str, str]


class HealthAnswer(BaseModel):
    """Models are loaded and a golden request was scored."""

    status: Literal["ready"]
    release: str


class Problem(BaseModel):
    """Why a request failed."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """Body of every answer that is not 200."""

    error: Problem
