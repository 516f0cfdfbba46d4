"""One replica of the HTTP side."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from coldstart.config.recipe import Data, Serving
from coldstart.serving.app import make_app
from coldstart.serving.arm import Arm
from coldstart.serving.board import Line
from coldstart.serving.call import RankCall
from coldstart.serving.catalogue import Catalogue
from coldstart.serving.heaps import tend
from coldstart.serving.items import Items
from coldstart.serving.models import Models, Within
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.ranker_replica import RankerReplica
from coldstart.serving.request_id import incoming
from coldstart.serving.schemas import FeedbackAnswer, FeedbackRequest, HealthAnswer, RankAnswer, ReleaseAnswer
from coldstart.serving.traffic import Traffic
from coldstart.serving.trial import Trial
from coldstart.serving.watch import Watch
from coldstart.serving.watch_answers import WatchAnswer


@dataclass(frozen=True)
class Served:
    """A release as a gateway is told of it.

    Attributes:
        release: Names only, so that a gateway needs neither MLflow nor the models.
        ranker_dir: The ranker's artifact, for its item ids.
        adaptor_dir: The adaptor's, for how it hands items over.
        encoder: Handle of the encoder deployment.
        adaptor: Handle of the adaptor deployment.
        ranker: Handle of the ranker deployment; None where gateways hold the ranker.
    """

    release: ReleaseAnswer
    ranker_dir: Path
    adaptor_dir: Path
    encoder: DeploymentHandle[Any]
    adaptor: DeploymentHandle[Any]
    ranker: DeploymentHandle[Any] | None = None


class Gateway:
    """One replica of the HTTP side.

    Args:
        served: The champion, and the challenger if there is one.
        trial: The challenger's.
        settings: The recipe's section.
        data: Limits of pictures.
        store_dir: Where published proxies are kept.
        board: What gateways share; `None` for one alone.
        dataset: Directory of the dataset the release was made from, for the console's pictures; it may be missing.
    """

    def __init__(
        self,
        served: Sequence[Served],
        trial: Trial | None,
        settings: Serving,
        data: Data,
        store_dir: Path,
        board: Any | None = None,
        dataset: Path | None = None,
    ) -> None:
        tend()
        self.settings, self.data, self.dataset = settings, data, dataset
        self.watch = Watch(settings, trial.number if trial else None)
        champion, challenger = (*(self._arm(one, store_dir) for one in served), None)[:2]
        assert champion is not None
        self.traffic = Traffic(champion, challenger, trial, settings, self.watch, Line(board))
        self.items = Items([arm for arm in (champion, challenger) if arm])

    def _arm(self, served: Served, store_dir: Path) -> Arm:
        store = ProxyStore(store_dir, served.release.fingerprints["adaptor"], self.settings.store)
        ranker = served.ranker or Within(RankerReplica(served.ranker_dir, self.settings))
        models = Models(served.encoder, served.adaptor, ranker, self.settings, self.watch)
        catalogue = Catalogue(served.ranker_dir, served.adaptor_dir, store)
        return Arm(served.release, models, catalogue, store, self.settings, self.data, self.watch)

    def __serve_build_asgi_app__(self) -> FastAPI:
        # The hook by which Serve asks a replica for its HTTP application.
        return make_app(self, named_outside=True)

    def running(self) -> AbstractAsyncContextManager[None]:
        """While the HTTP application is up."""
        return self.traffic.running()

    @property
    def champion(self) -> Arm:
        """The release that answers all who are not in a trial."""
        return self.traffic.champion

    @property
    def release(self) -> ReleaseAnswer:
        """What is served."""
        return self.traffic.release

    async def rank(self, call: RankCall) -> RankAnswer:
        """Scores the candidates of one user."""
        return await self.traffic.rank(call)

    def feedback(self, request: FeedbackRequest) -> FeedbackAnswer:
        """Takes what users did with items that were ranked for them."""
        self.watch.feedback(incoming().request_id, request.events)
        return FeedbackAnswer(accepted=len(request.events))

    def figures(self) -> WatchAnswer:
        """How serving does, over all gateways."""
        return self.traffic.summary()

    async def health(self) -> HealthAnswer:
        """Answers when all models of the champion answer a golden request; a challenger is never waited for."""
        await self.champion.health()
        return HealthAnswer(status="ready", release=self.release.release)
