"""Keeps the latest scores of a gateway until feedback on them arrives."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldstart.serving.api.schemas import SLOT_SOURCES, Feedback, SlotSource


@dataclass(frozen=True, slots=True)
class _ScoredRequest:
    release: str
    user_id: str | None
    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    slot_sources: NDArray[np.int8]


@dataclass(frozen=True)
class MatchedScore:
    """The score that feedback belongs to.

    Attributes:
        release: Name of the release that computed it.
        slot_source: Source of the item's vector.
        score: Click probability.
    """

    release: str
    slot_source: SlotSource
    score: float


class FeedbackBuffer:
    """The latest scores; the oldest requests are dropped first.

    Items are kept as 8-byte hashes; a collision within one request is practically impossible.

    Args:
        rows: Most candidates to keep.
    """

    def __init__(self, rows: int) -> None:
        self._max_rows = rows
        self.rows = 0
        self._by_request: OrderedDict[str, list[_ScoredRequest]] = OrderedDict()
        self._by_user: dict[str, str] = {}

    def add(
        self,
        request_id: str,
        user_id: str | None,
        release: str,
        items: Sequence[str | None],
        scores: Sequence[float],
        slot_sources: Sequence[SlotSource],
    ) -> None:
        """Keeps the scores of one request. Feedback cannot refer to candidates without an id."""
        request = _ScoredRequest(
            release,
            user_id,
            np.fromiter(map(hash, items), np.int64, len(items)),
            np.array(scores, np.float32),
            np.fromiter(map(SLOT_SOURCES.index, slot_sources), np.int8, len(slot_sources)),
        )
        self._by_request.setdefault(request_id, []).append(request)
        if user_id is not None:
            self._by_user[user_id] = request_id
        self.rows += len(request.items)
        while self.rows > self._max_rows:
            oldest, requests = self._by_request.popitem(last=False)
            for old in requests:
                self.rows -= len(old.items)
                if old.user_id is not None and self._by_user.get(old.user_id) == oldest:
                    del self._by_user[old.user_id]

    def match(self, feedback: Feedback) -> list[MatchedScore]:
        """The scores that feedback belongs to: two if the request also went to a shadow challenger; none if dropped.

        Each score is returned at most once.
        """
        found: list[MatchedScore] = []
        request_id = feedback.request_id or self._by_user.get(feedback.user_id or "", "")
        user_id = feedback.user_id
        for request in self._by_request.get(request_id, []):
            positions = np.flatnonzero(request.items == hash(feedback.item_id))
            if not len(positions) or np.isnan(request.scores[positions[0]]):
                continue
            if user_id is not None and request.user_id != user_id:
                continue
            # Feedback without a user id on a request of several users goes to the first user with this candidate.
            user_id = request.user_id if request.user_id is not None else user_id
            at = positions[0]
            found.append(
                MatchedScore(request.release, SLOT_SOURCES[request.slot_sources[at]], float(request.scores[at]))
            )
            request.scores[at] = np.nan
            if request.user_id is None:
                break
        return found
