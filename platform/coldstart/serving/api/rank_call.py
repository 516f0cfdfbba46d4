"""A parsed rank request in columns, from JSON or Arrow. Legend: `L` history, `T` candidates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from coldstart.data.content import Content
from coldstart.data.features import Value
from coldstart.serving.api.schemas import RankRequest
from coldstart.serving.core.scoring import Ints


@dataclass(frozen=True)
class RankCall:
    """Candidates of one user. All limits are checked, except `serving.max_candidates` and the images.

    Attributes:
        candidate_ids: [T] `None` for a candidate by content.
        history_ids: [L] item ids.
        history_labels: [L] 0 or 1.
        history_times: [L] Unix seconds.
        contents: Position -> content, for the candidates by content.
        features: Position -> raw features, for the candidates that carry their own.
        user_id: The user.
        now: Unix seconds; None for the server's clock.
        user_features: Raw features of the user.
        context: Raw features of the moment, such as device and place.
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
    def from_request(cls, request: RankRequest) -> Self:
        """Converts a JSON request to columns."""
        ids = [candidate.get("item_id") for candidate in request.candidates]
        by_content = {i: request.candidates[i] for i, item_id in enumerate(ids) if item_id is None}
        raw_features = {i: candidate.get("features") for i, candidate in by_content.items()}
        return cls(
            candidate_ids=ids,
            history_ids=[event["item_id"] for event in request.history],
            history_labels=np.array([event["label"] for event in request.history], np.int64),
            history_times=np.array([event["timestamp"] for event in request.history], np.int64),
            contents={
                i: Content(candidate.get("title"), candidate.get("text"), candidate.get("image") or None)
                for i, candidate in by_content.items()
            },
            features={i: features for i, features in raw_features.items() if features is not None},
            user_id=request.user_id,
            now=request.now,
            user_features=request.user_features,
            context=request.context,
        )
