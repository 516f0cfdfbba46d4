"""One replica of the HTTP side."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from coldstart.config.recipe import Data, Serving
from coldstart.serving.app import make_app
from coldstart.serving.arm import Arm
from coldstart.serving.call import RankCall
from coldstart.serving.catalogue import Catalogue
from coldstart.serving.items import Items
from coldstart.serving.models import Models
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.schemas import (
    HealthAnswer,
    RankAnswer,
    ReleaseAnswer,
)


class Gateway:
    """One replica of the HTTP side.

    Args:
        encoder: Handle of the encoder deployment.
        adaptor: Handle of the adaptor deployment.
        ranker: Handle of the ranker deployment.
        release: What is served.
        ranker_dir: The ranker's artifact, for its item ids.
        settings: The recipe's section.
        data: Limits of pictures.
        store_dir: Where published proxies are kept.
    """

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        adaptor: DeploymentHandle[Any],
        ranker: DeploymentHandle[Any],
        release: ReleaseAnswer,
        ranker_dir: Path,
        settings: Serving,
        data: Data,
        store_dir: Path,
    ) -> None:
        self.settings, self.data = settings, data
        store = ProxyStore(store_dir, release.fingerprints["adaptor"], settings.store)
        self.champion = Arm(
            release, Models(encoder, adaptor, ranker, settings), Catalogue(ranker_dir, store), store, settings, data
        )
        self.items = Items([self.champion])

    def __serve_build_asgi_app__(self) -> FastAPI:
        # The hook by which Serve asks a replica for its HTTP application.
        return make_app(self)

    @property
    def release(self) -> ReleaseAnswer:
        """What is served."""
        return self.champion.release

    async def rank(self, call: RankCall) -> RankAnswer:
        """Scores the candidates of one user."""
        return await self.champion.rank(call)

    async def health(self) -> HealthAnswer:
        """Answers when all models answer a golden request."""
        await self.champion.health()
        return HealthAnswer(status="ready", release=self.release.release)
