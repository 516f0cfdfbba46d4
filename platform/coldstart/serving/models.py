"""The models of one release, as a gateway calls them. Legend: `T` candidates, `d` ID width."""

from typing import Any

from ray.serve.handle import DeploymentHandle

from coldstart.data.content import Content
from coldstart.serving.proxy_store import Vectors
from coldstart.serving.scoring import Floats, RankQuery


class Models:
    """Handles of the encoder, adaptor and ranker deployments of one release."""

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        adaptor: DeploymentHandle[Any],
        ranker: DeploymentHandle[Any],
    ) -> None:
        self.encoder, self.adaptor, self.ranker = encoder, adaptor, ranker

    async def rank(self, query: RankQuery) -> Floats:
        """Click probabilities `[T]` of one query."""
        scores: Floats = await self.ranker.rank.remote(query)
        return scores

    async def proxy(self, content: Content) -> Vectors:
        """Content -> fine proxy `[d]`; the layer states go from encoder to adaptor without passing here."""
        proxy: Vectors = await self.adaptor.adapt.remote(self.encoder.read.remote(content))
        return proxy
