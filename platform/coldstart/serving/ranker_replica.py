"""The ranker deployment."""

from pathlib import Path

import numpy as np
import torch

from coldstart.config.recipe import Serving
from coldstart.rankers import load_ranker
from coldstart.serving.batching import must_be_finite
from coldstart.serving.heaps import tend
from coldstart.serving.scoring import Floats, RankQuery, golden_query, score


class RankerReplica:
    """Rank queries -> click probabilities."""

    def __init__(self, path: Path, settings: Serving) -> None:
        tend()
        torch.set_num_threads(1)
        self.ranker = load_ranker(path)
        proxy = np.full(self.ranker.width, 0.1, np.float32)
        must_be_finite("ranker", *self._forward([golden_query(proxy)]))

    async def rank(self, queries: list[RankQuery]) -> list[Floats | Exception]:
        """Scores what a gateway sends together, in one pass: `[T]` each, or why that one has no score."""
        try:
            return list(self._forward(queries))
        except Exception as error:
            if len(queries) == 1:
                return [error]
        return [answer for query in queries for answer in await self.rank([query])]

    def _forward(self, queries: list[RankQuery]) -> list[Floats]:
        return score(self.ranker, queries, history=self.ranker.history)
