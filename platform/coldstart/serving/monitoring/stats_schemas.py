"""Response of `GET /v1/stats`: statistics of serving, over all gateways."""

from typing import Literal, get_args

from pydantic import BaseModel, Field

from coldstart.serving.api.schemas import SlotSource

Model = Literal["encoder", "adaptor", "scorer"]
MODELS: tuple[Model, ...] = get_args(Model)
LookupResult = Literal["id", "proxy", "oov"]
LOOKUP_RESULTS: tuple[LookupResult, ...] = get_args(LookupResult)


class LatencyStats(BaseModel):
    """Rate and latency of the last minute; percentiles are `None` without requests."""

    per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class LookupStats(BaseModel):
    """Candidates given by id in the last minute, by the result of their lookup.

    `id`: the item has a trained ID row. `proxy`: a proxy was found. `oov`: neither, scored as an unknown item.
    """

    per_s: float
    shares: dict[LookupResult, float]


class QueueStats(BaseModel):
    """Calls of a model without an answer yet: waiting in a gateway or a replica, on the way, or in progress."""

    now: int
    peak: int = Field(description="peak of the last minute, summed over the gateways")


class BatchStats(BaseModel):
    """Forward passes of a model in the last minute."""

    per_s: float
    mean: float | None = Field(description="mean batch size")
    sizes: dict[str, int] = Field(description="batch size -> number of passes")


class CalibrationStats(BaseModel):
    """Predicted and observed click rate of candidates with feedback."""

    rows: int
    predicted: float | None = Field(description="mean click probability")
    observed: float | None = Field(description="click rate")
    error: float | None = Field(description="expected calibration error")


class VariantStats(BaseModel):
    """Statistics of one release, over all gateways."""

    release: str
    requests: LatencyStats
    refused_per_s: float = Field(description="requests refused because of a client error")
    failed_per_s: float
    slot_sources: dict[SlotSource, float] = Field(
        description="fraction of the candidates of the last minute, by source of their item vector"
    )
    lookups: LookupStats
    mean_score: float | None
    drift: dict[Literal["evaluation", "initial"], float | None] = Field(
        description="population stability index of the scores, against evaluation and against the first minutes"
    )
    calibration: dict[str, CalibrationStats] = Field(description="by source of the item vector, and `all`")
    proxy_quality: "ProxyQuality | None" = None


class ProxyQuality(BaseModel):
    """Mean cosine between the proxies of items and the ID rows that the next ranker learned for them.

    The ID space of the new ranker is first rotated onto the old one, using the items that have a row in both.
    `ceiling` is the cosine of these items' own rows after the rotation; `chance` is that of proxies and other items.
    """

    items: int
    cosine: float
    ceiling: float
    chance: float
    previous: str


class ShadowStats(BaseModel):
    """Differences between a challenger's shadow scores and the returned scores of the champion."""

    candidates: int
    mean_difference: float | None
    mean_absolute_difference: float | None
    skipped: int = Field(description="requests not sent to it because too many were in flight")


class ServingStats(BaseModel):
    """Statistics of serving, over all gateways."""

    gateways: int
    champion: VariantStats
    challenger: VariantStats | None
    shadow: ShadowStats | None
    stages: dict[str, LatencyStats] = Field(
        description="by stage of a request; `encode` and `adapt` count each content"
    )
    queues: dict[Model, QueueStats]
    batches: dict[Model, BatchStats]
    publish: LatencyStats = Field(description="from the arrival of an item until it is stored and acknowledged")
    proxy_propagation: LatencyStats = Field(
        description="from stored to rankable at a gateway, which reads the store at every request and every second"
    )
    newest_proxy_age_s: float | None = Field(
        description="age of the newest loaded proxy, at the gateway that is furthest behind; null without proxies"
    )
    in_flight: int
    feedback_received: int
    feedback_joined: int
    feedback_buffer_size: int
