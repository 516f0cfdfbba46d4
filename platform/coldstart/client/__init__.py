"""The client of a running `coldstart serve`; importing it loads neither Ray nor torch."""

from coldstart.client.asynchronous import AsyncClient
from coldstart.client.errors import (
    BusyError,
    CallError,
    DeadlineError,
    RefusedError,
    UnreachableError,
    UnusableAnswerError,
)
from coldstart.client.retries import Counts, Retries
from coldstart.client.synchronous import Client
from coldstart.serving.schemas import (
    Candidate,
    Feedback,
    FeedbackAnswer,
    HealthAnswer,
    HistoryEvent,
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

__all__ = [
    "AsyncClient",
    "BusyError",
    "CallError",
    "Candidate",
    "Client",
    "Counts",
    "DeadlineError",
    "Feedback",
    "FeedbackAnswer",
    "HealthAnswer",
    "HistoryEvent",
    "ItemAnswer",
    "NeighboursAnswer",
    "PublishAnswer",
    "PublishAnswers",
    "PublishRequest",
    "RankAnswer",
    "RankAnswers",
    "RankRequest",
    "RankRequests",
    "RefusedError",
    "ReleaseAnswer",
    "Retries",
    "UnreachableError",
    "UnusableAnswerError",
    "WatchAnswer",
    "WithdrawAnswer",
]
