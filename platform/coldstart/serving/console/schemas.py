"""Request and response bodies of the console's own paths, which are not part of the public API."""

from typing import Literal, Self

from pydantic import BaseModel, model_validator

from coldstart.serving.api.schemas import ImageBytes, ReleaseResponse, StrictModel, Text, Title
from coldstart.serving.monitoring.stats_schemas import ServingStats


class ItemCard(BaseModel):
    """An item of the catalog; `image` is a `data:` URI."""

    item_id: str
    title: str
    image: str | None


class NeighborCard(ItemCard):
    """A mature item near the proxy."""

    cosine: float


class CodeLevelCard(BaseModel):
    """The items of the catalog that share the first codes of the new item's semantic ID."""

    codes: list[int]
    items: int
    nearest: list[ItemCard]


class UserRates(BaseModel):
    """A sample user's click probabilities for the new item."""

    user_id: str
    recent_clicks: list[str]
    proxy: float
    oov: float


class PreviewResponse(BaseModel):
    """The neighbors and predicted click rates of a new item; `no_images_reason` is null if there are images.

    `code_path` has an entry per level of its semantic ID, and none if the method has no codes.
    """

    release: str
    neighbors: list[NeighborCard]
    code_path: list[CodeLevelCard]
    users: list[UserRates]
    histories: Literal["dataset", "synthetic"]
    no_images_reason: str | None


class ExampleResponse(BaseModel):
    """An item without a train event; `image` is a `data:` URI."""

    item_id: str
    title: str | None
    text: str | None
    image: str | None


class DeploymentStatus(BaseModel):
    """State and number of replicas of a deployment."""

    name: str
    state: str
    running: int
    starting: int


class StatusResponse(BaseModel):
    """What the page shows besides the item."""

    release: ReleaseResponse
    stats: ServingStats
    deployments: list[DeploymentStatus]
    max_image_bytes: int
    example: bool


class PreviewRequest(StrictModel):
    """Content of a new item to preview; it is not stored."""

    title: Title | None = None
    text: Text | None = None
    image: ImageBytes | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if not (self.title or self.text or self.image):
            raise ValueError("give at least one of title, text and image")
        return self
