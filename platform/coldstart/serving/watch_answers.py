"""What `GET /v1/watch` answers: how serving does, over all gateways."""

from typing import Literal, get_args

from pydantic import BaseModel, Field

from coldstart.serving.schemas import Vector

Model = Literal["encoder", "adaptor", "ranker"]
MODELS: tuple[Model, ...] = get_args(Model)
Found = Literal["known", "proxy", "neither"]
FOUND: tuple[Found, ...] = get_args(Found)


class Latency(BaseModel):
    """Of the last minute; percentiles are `None` while nothing was seen."""

    per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class Lookups(BaseModel):
    """Candidates given by id, of the last minute, by what was found of them.

    `known` has an ID row that was trained, `proxy` is a hit in the proxy store, `neither` is scored as unknown.
    """

    per_s: float
    shares: dict[Found, float]


class Queue(BaseModel):
    """Asks of a model without an answer yet: waiting in a gateway or a replica, on the way, or being worked on."""

    now: int
    peak: int = Field(description="the most at once within a minute, summed over the gateways")


class Batches(BaseModel):
    """Passes of a model, of the last minute."""

    per_s: float
    mean: float | None = Field(description="asks in one pass")
    sizes: dict[str, int] = Field(description="passes by how many asks were in them")


class Calibration(BaseModel):
    """Predicted against observed clicks, where feedback came."""

    rows: int
    predicted: float | None = Field(description="mean click probability")
    observed: float | None = Field(description="share of clicks")
    error: float | None = Field(description="expected calibration error")


class ArmFigures(BaseModel):
    """How one release does, on all gateways together."""

    release: str
    requests: Latency
    refused_per_s: float = Field(description="requests with an error of the client's")
    failed_per_s: float
    vectors: dict[Vector, float] = Field(description="share of candidates by what stood for them, last minute")
    lookups: Lookups
    mean_score: float | None
    drift: dict[Literal["evaluation", "first"], float | None] = Field(
        description="population stability index of the scores against the evaluation's, and against its first minutes"
    )
    calibration: dict[str, Calibration] = Field(description="by vector, and `all`")
    earned: "Earned | None" = None


class Earned(BaseModel):
    """Cosine between the proxy of items and the ID row the next ranker learned for them.

    The new ranker's rows lie in another space, so it is turned onto the old one's by the items both have rows for.
    `ceiling` is what those items' own rows reach after that, `chance` what proxies reach against the rows of others.
    """

    items: int
    cosine: float
    ceiling: float
    chance: float
    before: str


class ShadowFigures(BaseModel):
    """How a challenger's unseen scores differ from those that were returned."""

    candidates: int
    mean_difference: float | None
    mean_absolute_difference: float | None
    skipped: int = Field(description="requests it was too slow to be asked")


class WatchAnswer(BaseModel):
    """How serving does, over all gateways."""

    gateways: int
    champion: ArmFigures
    challenger: ArmFigures | None
    shadow: ShadowFigures | None
    stages: dict[str, Latency] = Field(description="of a request; `encode` and `adapt` of each content")
    queues: dict[Model, Queue]
    batches: dict[Model, Batches]
    publish: Latency = Field(description="from the arrival of an item to its acknowledgement: it is stored")
    taken_in: Latency = Field(
        description="from the store to rankable at a gateway, which looks at every request, or once a second without"
    )
    newest_item_s: float | None = Field(
        description="age of the newest proxy held, at the gateway that is furthest behind; null before the first"
    )
    in_flight: int
    feedback_received: int
    feedback_joined: int
    remembered_candidates: int
