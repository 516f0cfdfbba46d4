"""What a gateway remembers of its answers, so that feedback finds the score it is about."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldstart.serving.schemas import VECTORS, Feedback, Vector


@dataclass(frozen=True, slots=True)
class _Answer:
    release: str
    user_id: str | None
    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    vectors: NDArray[np.int8]


@dataclass(frozen=True)
class Found:
    """The score that feedback is about.

    Attributes:
        release: That gave it.
        vector: What stood for the item.
        score: Click probability.
    """

    release: str
    vector: Vector
    score: float


class Answers:
    """The latest answers; older ones are forgotten.

    Items are kept as hashes: 8 bytes, and within one answer no two will ever be mistaken for each other.

    Args:
        rows: How many candidates to remember.
    """

    def __init__(self, rows: int) -> None:
        self._most = rows
        self.rows = 0
        self._by_request: OrderedDict[str, list[_Answer]] = OrderedDict()
        self._by_user: dict[str, str] = {}

    def keep(
        self,
        request_id: str,
        user_id: str | None,
        release: str,
        items: Sequence[str | None],
        scores: Sequence[float],
        vectors: Sequence[Vector],
    ) -> None:
        """Remembers one answer; candidates given by content have no id, and no feedback can name them."""
        answer = _Answer(
            release,
            user_id,
            np.fromiter(map(hash, items), np.int64, len(items)),
            np.array(scores, np.float32),
            np.fromiter(map(VECTORS.index, vectors), np.int8, len(vectors)),
        )
        self._by_request.setdefault(request_id, []).append(answer)
        if user_id is not None:
            self._by_user[user_id] = request_id
        self.rows += len(answer.items)
        while self.rows > self._most:
            oldest, answers = self._by_request.popitem(last=False)
            for old in answers:
                self.rows -= len(old.items)
                if old.user_id is not None and self._by_user.get(old.user_id) == oldest:
                    del self._by_user[old.user_id]

    def find(self, feedback: Feedback) -> list[Found]:
        """The scores that feedback is about: two if a challenger scored the request unseen, none if all is forgotten.

        A score is found once; asked again, it is not.
        """
        found: list[Found] = []
        request_id = feedback.request_id or self._by_user.get(feedback.user_id or "", "")
        user_id = feedback.user_id
        for answer in self._by_request.get(request_id, []):
            places = np.flatnonzero(answer.items == hash(feedback.item_id))
            if not len(places) or np.isnan(answer.scores[places[0]]):
                continue
            if user_id is not None and answer.user_id != user_id:
                continue
            # A request of several users: without a user's id, the first who was offered the item is meant.
            user_id = answer.user_id if answer.user_id is not None else user_id
            place = places[0]
            found.append(Found(answer.release, VECTORS[answer.vectors[place]], float(answer.scores[place])))
            answer.scores[place] = np.nan
            if answer.user_id is None:
                break
        return found
