"""The scorer deployment."""

import torch

from coldstart.config.recipe import Serving
from coldstart.methods.available import find_method
from coldstart.methods.base import Parts
from coldstart.serving.core.batching import check_finite
from coldstart.serving.core.scoring import Floats, RankQuery, golden_query, score
from coldstart.serving.deployment.replica_process import set_up_process
from coldstart.serving.store.row_layout import example_row


class ScorerReplica:
    """Computes click probabilities of rank queries.

    Args:
        method: Name of the release's method.
        parts: Directories of the release's artifacts.
        settings: `serving` of the recipe.
    """

    def __init__(self, method: str, parts: Parts, settings: Serving) -> None:
        set_up_process()
        torch.set_num_threads(1)
        self.scorer = find_method(method).load_scorer(parts)
        check_finite("scorer", *score(self.scorer, [golden_query(example_row(self.scorer.inputs))]))

    async def rank(self, queries: list[RankQuery]) -> list[Floats | Exception]:
        """Scores a batch of a gateway in one forward pass: `[T]` per query, or its error."""
        try:
            return list(score(self.scorer, queries))
        except Exception as error:
            if len(queries) == 1:
                return [error]
        return [result for query in queries for result in await self.rank([query])]
