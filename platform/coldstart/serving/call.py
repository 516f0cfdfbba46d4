"""A rank request after parsing: columns, whatever form it came in. Legend: `L` history, `T` candidates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from coldstart.data.content import Content
from coldstart.data.features import Value
from coldstart.serving.schemas import RankRequest
from coldstart.serving.scoring import Ints


@dataclass(frozen=True)
class RankCall:
    """Candidates of one user; within all limits but the recipe's `max_candidates`, and pictures not yet looked at.

    Attributes:
        candidate_ids: [T] `None` where the candidate is given by content.
        history_ids: [L] as the client names them.
        history_labels: [L] 0 or 1.
        history_times: [L] Unix seconds.
        contents: By position, of the candidates given by content.
        features: By position, of the candidates that carry their own.
        user_id: Who asks.
        now: Unix seconds; None for the server's clock.
        user_features: What is known of the user.
        context: What is known of the moment.
    """

    candidate_ids: list[str | None]
    history_ids: list[str]
    history_labels: Ints
    history_times: Ints
    contents: Mapping[int, Content] = field(default_factory=dict)
    features: Mapping[int, Mapping[str, Value]] = field(default_factory=dict)
    user_id: str | None = None
    now: int | None = None
    user_features: Mapping[str, Value] = field(default_factory=dict)
    context: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def of(cls, request: RankRequest) -> Self:
        """The columns of a request that came as JSON."""
        ids = [candidate.get("item_id") for candidate in request.candidates]
        by_content = {i: request.candidates[i] for i, item_id in enumerate(ids) if item_id is None}
        given = {i: candidate.get("features") for i, candidate in by_content.items()}
        return cls(
            candidate_ids=ids,
            history_ids=[event["item_id"] for event in request.history],
            history_labels=np.array([event["label"] for event in request.history], np.int64),
            history_times=np.array([event["timestamp"] for event in request.history], np.int64),
            contents={
                i: Content(candidate.get("title"), candidate.get("text"), candidate.get("picture") or None)
                for i, candidate in by_content.items()
            },
            features={i: features for i, features in given.items() if features is not None},
            user_id=request.user_id,
            now=request.now,
            user_features=request.user_features,
            context=request.context,
        )
