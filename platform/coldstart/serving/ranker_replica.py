"""The ranker deployment."""

from pathlib import Path

import numpy as np
import torch

from coldstart.config.recipe import Serving
from coldstart.rankers import load_ranker
from coldstart.serving.batching import check_finite
from coldstart.serving.malloc import limit_heap_growth
from coldstart.serving.scoring import Floats, RankQuery, golden_query, score


class RankerReplica:
    """Computes click probabilities of rank queries."""

    def __init__(self, path: Path, settings: Serving) -> None:
        limit_heap_growth()
        torch.set_num_threads(1)
        self.ranker = load_ranker(path)
        proxy = np.full(self.ranker.embedding_dim, 0.1, np.float32)
        check_finite("ranker", *self._forward([golden_query(proxy)]))

    async def rank(self, queries: list[RankQuery]) -> list[Floats | Exception]:
        """Scores a batch of a gateway in one forward pass: `[T]` per query, or its error."""
        try:
            return list(self._forward(queries))
        except Exception as error:
            if len(queries) == 1:
                return [error]
        return [result for query in queries for result in await self.rank([query])]

    def _forward(self, queries: list[RankQuery]) -> list[Floats]:
        return score(self.ranker, queries, history=self.ranker.max_history)
