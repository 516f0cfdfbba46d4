"""What the console's own paths answer; they are the page's alone, and no part of the API."""

from typing import Literal, Self

from pydantic import BaseModel, model_validator

from coldstart.serving.schemas import Picture, ReleaseAnswer, Strict, Text, Title
from coldstart.serving.watch_answers import WatchAnswer


class Card(BaseModel):
    """A mature item near to the proxy."""

    item_id: str
    title: str
    cosine: float
    picture: str | None


class UserRates(BaseModel):
    """A sample user's click probabilities for the new item."""

    user_id: str
    liked: list[str]
    proxy: float
    oov: float


class LookAnswer(BaseModel):
    """Where a new item lands. `pictures` says why there are none, if there are none."""

    release: str
    neighbours: list[Card]
    users: list[UserRates]
    histories: Literal["dataset", "made up"]
    pictures: str | None


class ExampleAnswer(BaseModel):
    """An item without a train event; `picture` is a `data:` URI."""

    item_id: str
    title: str | None
    text: str | None
    picture: str | None


class Deployment(BaseModel):
    """How many replicas a deployment has."""

    name: str
    state: str
    running: int
    starting: int


class StatusAnswer(BaseModel):
    """What the page shows beside an item."""

    release: ReleaseAnswer
    watch: WatchAnswer
    deployments: list[Deployment]
    max_picture_bytes: int
    example: bool


class LookRequest(Strict):
    """A new item to look at; nothing is kept of it."""

    title: Title | None = None
    text: Text | None = None
    picture: Picture | None = None

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if not (self.title or self.text or self.picture):
            raise ValueError("give at least one of title, text and picture")
        return self
