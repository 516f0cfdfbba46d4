"""A gateway replica: the HTTP server in front of the models."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from coldstart.config.recipe import Data, Serving
from coldstart.methods.available import find_method
from coldstart.methods.base import SCORER, Parts
from coldstart.serving.ab_test.ab_router import ABRouter
from coldstart.serving.ab_test.experiment import ABTest
from coldstart.serving.api.app import make_app
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.request_id import current_request
from coldstart.serving.api.schemas import (
    FeedbackRequest,
    FeedbackResponse,
    HealthResponse,
    RankResponse,
    ReleaseResponse,
)
from coldstart.serving.core.catalog import Catalog
from coldstart.serving.core.item_service import ItemService
from coldstart.serving.core.local_handle import LocalHandle
from coldstart.serving.core.model_handles import ModelHandles
from coldstart.serving.core.release_server import ReleaseServer
from coldstart.serving.core.scorer_info import ScorerInfo
from coldstart.serving.deployment.replica_process import set_up_process
from coldstart.serving.deployment.scorer_replica import ScorerReplica
from coldstart.serving.monitoring.stats_aggregator import AggregatorClient
from coldstart.serving.monitoring.stats_collector import StatsCollector
from coldstart.serving.monitoring.stats_schemas import ServingStats
from coldstart.serving.store.item_store import ItemStore, store_directory


@dataclass(frozen=True)
class ReleaseSpec:
    """What a gateway needs to serve a release.

    Attributes:
        release: Names and versions, so that a gateway needs neither MLflow nor the model files.
        method: Name of its method.
        parts: Directories of its artifacts.
        encoder: Handle of the encoder deployment.
        adaptor: Handle of the adaptor deployment.
        scorer: Handle of the scorer deployment; None if gateways hold the scorer.
    """

    release: ReleaseResponse
    method: str
    parts: Parts
    encoder: DeploymentHandle[Any]
    adaptor: DeploymentHandle[Any]
    scorer: DeploymentHandle[Any] | None = None


class Gateway:
    """A gateway replica.

    Args:
        specs: The champion, and the challenger if there is one.
        ab_test: The challenger's A/B test.
        settings: `serving` of the recipe.
        data: Limits of images.
        store_dir: Parent directory of the item stores.
        aggregator: Actor that combines the statistics of all gateways; None for a single gateway.
        dataset: Directory of the release's dataset, for the console's images; it may be missing.
    """

    def __init__(
        self,
        specs: Sequence[ReleaseSpec],
        ab_test: ABTest | None,
        settings: Serving,
        data: Data,
        store_dir: Path,
        aggregator: Any | None = None,
        dataset: Path | None = None,
    ) -> None:
        set_up_process()
        self.settings, self.data, self.dataset = settings, data, dataset
        self.stats = StatsCollector(settings, ab_test.id if ab_test else None)
        champion, challenger = (*(self._release_server(spec, store_dir) for spec in specs), None)[:2]
        assert champion is not None
        self.router = ABRouter(champion, challenger, ab_test, settings, self.stats, AggregatorClient(aggregator))
        method = find_method(specs[0].method)
        servers = [server for server in (champion, challenger) if server]
        self.items = ItemService(servers, method.neighbor_column(specs[0].parts), method.code_column)

    def _release_server(self, spec: ReleaseSpec, store_dir: Path) -> ReleaseServer:
        space = spec.release.fingerprints[SCORER]
        info = ScorerInfo.read(store_directory(store_dir, space))
        store = ItemStore(store_dir, space, info.columns, self.settings.store)
        scorer = spec.scorer or LocalHandle(ScorerReplica(spec.method, spec.parts, self.settings))
        models = ModelHandles(spec.encoder, spec.adaptor, scorer, self.settings, self.stats)
        catalog = Catalog(find_method(spec.method).catalog_dir(spec.parts), info, store)
        return ReleaseServer(spec.release, models, catalog, store, self.settings, self.data, self.stats)

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve calls this to get the replica's HTTP application.
        return make_app(self, proxy_adds_request_id=True)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Runs the background tasks while the HTTP application is up."""
        return self.router.running()

    @property
    def champion(self) -> ReleaseServer:
        """The release that serves all users outside of an A/B test."""
        return self.router.champion

    @property
    def release(self) -> ReleaseResponse:
        """The served release."""
        return self.router.release

    async def rank(self, call: RankCall) -> RankResponse:
        """Scores the candidates of one user."""
        return await self.router.rank(call)

    def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """Accepts what users did with ranked items."""
        self.stats.add_feedback(current_request().request_id, request.events)
        return FeedbackResponse(accepted=len(request.events))

    def serving_stats(self) -> ServingStats:
        """Statistics over all gateways."""
        return self.router.stats_summary()

    async def health(self) -> HealthResponse:
        """Checks that all models of the champion answer a golden request; does not wait for a challenger."""
        await self.champion.health()
        return HealthResponse(status="ready", release=self.release.release)
