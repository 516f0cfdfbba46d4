"""The client of a running `coldstart serve`; importing it loads neither Ray nor torch."""

from coldstart.client.async_client import AsyncClient
from coldstart.client.errors import (
    BusyError,
    CallError,
    DeadlineExceededError,
    InvalidResponseError,
    RequestRejectedError,
    UnreachableError,
)
from coldstart.client.retries import CallCounts, RetryPolicy
from coldstart.client.sync_client import Client
from coldstart.serving.api.schemas import (
    Candidate,
    Feedback,
    FeedbackResponse,
    HealthResponse,
    HistoryEvent,
    ItemResponse,
    NeighborsResponse,
    PublishBatchResponse,
    PublishRequest,
    PublishResponse,
    RankBatchRequest,
    RankBatchResponse,
    RankRequest,
    RankResponse,
    ReleaseResponse,
    WithdrawResponse,
)
from coldstart.serving.monitoring.stats_schemas import ServingStats

__all__ = [
    "AsyncClient",
    "BusyError",
    "CallCounts",
    "CallError",
    "Candidate",
    "Client",
    "DeadlineExceededError",
    "Feedback",
    "FeedbackResponse",
    "HealthResponse",
    "HistoryEvent",
    "InvalidResponseError",
    "ItemResponse",
    "NeighborsResponse",
    "PublishBatchResponse",
    "PublishRequest",
    "PublishResponse",
    "RankBatchRequest",
    "RankBatchResponse",
    "RankRequest",
    "RankResponse",
    "ReleaseResponse",
    "RequestRejectedError",
    "RetryPolicy",
    "ServingStats",
    "UnreachableError",
    "WithdrawResponse",
]
