"""The ranker deployment."""

import asyncio
from pathlib import Path

import numpy as np
import torch
from ray import serve

from coldstart.config.recipe import Serving
from coldstart.rankers import load_ranker
from coldstart.serving.batching import BatchWatch, must_be_finite, tune
from coldstart.serving.scoring import Floats, RankQuery, golden_query, score


class RankerReplica:
    """Rank queries -> click probabilities."""

    def __init__(self, path: Path, settings: Serving) -> None:
        torch.set_num_threads(1)
        self.ranker = load_ranker(path)
        self.watch = BatchWatch(settings.request_timeout_s)
        tune(self._rank, settings)
        proxy = np.full(self.ranker.width, 0.1, np.float32)
        must_be_finite("ranker", *self._forward([golden_query(proxy)]))

    async def rank(self, query: RankQuery) -> Floats:
        """Scores one query: `[T]`."""
        return await self.watch.wait(self._rank(query))

    @serve.batch
    async def _rank(self, queries: list[RankQuery]) -> list[Floats]:
        with self.watch.batch():
            return await asyncio.to_thread(self._forward, queries)

    def _forward(self, queries: list[RankQuery]) -> list[Floats]:
        return score(self.ranker, queries, history=self.ranker.history)

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()
