"""The HTTP gateway: validates, decides which vector stands for each candidate, and calls the models."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from coldstart.config import UserError
from coldstart.config.recipe import Data, Serving
from coldstart.data.content import BadPicture, Content, decode_picture
from coldstart.data.features import Coded, Owner, Value, of_candidates
from coldstart.serving import errors
from coldstart.serving.catalogue import Catalogue, Choice
from coldstart.serving.errors import ApiError, BodyLimit
from coldstart.serving.proxy_store import ProxyStore, Vectors
from coldstart.serving.schemas import (
    Candidate,
    ErrorAnswer,
    HealthAnswer,
    Parts,
    PublishAnswer,
    PublishRequest,
    RankAnswer,
    RankRequest,
    ReleaseAnswer,
)
from coldstart.serving.scoring import GOLDEN_CONTENT, Floats, RankQuery, golden_query

_HEALTH_SECONDS = 10.0
Answer = TypeVar("Answer")


class Gateway:
    """One replica of the HTTP side.

    Args:
        encoder: Handle of the encoder deployment.
        adaptor: Handle of the adaptor deployment.
        ranker: Handle of the ranker deployment.
        release: What is served; names only, so that a gateway needs neither MLflow nor the models.
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
        self.encoder, self.adaptor, self.ranker = encoder, adaptor, ranker
        self.release, self.settings, self.data = release, settings, data
        self.store = ProxyStore(store_dir, release.fingerprints["adaptor"])
        self.catalogue = Catalogue(ranker_dir, self.store)
        self._golden_proxy: Vectors | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        # The hook by which Serve asks a replica for its HTTP application.
        return make_app(self)

    async def publish(self, request: PublishRequest) -> PublishAnswer:
        """Reads the content, stores its proxy, and answers when it would survive a crash."""
        began = time.perf_counter()
        features = None if request.features is None else self._encoded("item", request.features, "features")
        content = await self._checked(request, "picture")
        proxy = await self._within(self._proxy(content), self.settings.request_timeout_s)
        await asyncio.to_thread(self.store.publish, request.item_id, proxy, features)
        return PublishAnswer(
            item_id=request.item_id,
            proxy_norm=float(np.linalg.norm(proxy)),
            release=self.release.release,
            ms=_since(began),
        )

    async def rank(self, request: RankRequest) -> RankAnswer:
        """Scores the candidates of one user."""
        began = time.perf_counter()
        given, allowed = len(request.candidates), self.settings.max_candidates
        if given > allowed:
            raise ApiError(422, "invalid", f"candidates: {given} are given, at most {allowed} are allowed")
        choice = self.catalogue.choose([candidate.item_id for candidate in request.candidates])
        features = self._features(request, choice)
        proxies = choice.proxies | await self._within(
            self._contents(request.candidates), self.settings.request_timeout_s
        )
        positions = sorted(proxies)
        query = RankQuery(
            history_idx=self.catalogue.indices(event.item_id for event in request.history),
            history_label=np.fromiter((event.label for event in request.history), np.int64),
            history_time=np.fromiter((event.timestamp for event in request.history), np.int64),
            item_idx=choice.item_idx,
            now=int(time.time()) if request.now is None else request.now,
            positions=np.array(positions, np.int64),
            proxies=np.array([proxies[position] for position in positions], np.float32),
            features=features,
        )
        scores: Floats = await self._within(self.ranker.rank.remote(query), self.settings.request_timeout_s)
        return RankAnswer(
            scores=scores.tolist(), vectors=choice.vectors, release=self.release.release, ms=_since(began)
        )

    async def health(self) -> HealthAnswer:
        """Sends a golden request through every model; the encoder only until it has answered once."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                if self._golden_proxy is None:
                    self._golden_proxy = await self._proxy(GOLDEN_CONTENT)
                scores = await self.ranker.rank.remote(golden_query(self._golden_proxy))
        except Exception as error:
            raise ApiError(503, "not_ready", "the models do not answer the golden request", retry_after=1) from error
        if not np.isfinite(scores).all():
            raise ApiError(503, "not_ready", "the golden request gives scores that are not finite", retry_after=1)
        return HealthAnswer(status="ready", release=self.release.release)

    def _features(self, request: RankRequest, choice: Choice) -> Coded:
        """Features of all candidates, for this user and moment."""
        given = {
            position: self._encoded("item", candidate.features, f"candidates.{position}.features")
            for position, candidate in enumerate(request.candidates)
            if candidate.features is not None
        }
        item_ids = [candidate.item_id for candidate in request.candidates]
        item = self.catalogue.features(item_ids, choice.item_idx, given)
        user = self._encoded("user", request.user_features, "user_features")
        context = self._encoded("context", request.context, "context")
        return of_candidates(self.catalogue.schema, item, user, context)

    def _encoded(self, owner: Owner, given: Mapping[str, Value], where: str) -> Coded:
        try:
            return self.catalogue.schema.read(owner, given)
        except UserError as error:
            raise ApiError(422, "invalid", f"{where}: {error}") from error

    async def _contents(self, candidates: tuple[Candidate, ...] | list[Candidate]) -> dict[int, Vectors]:
        """Proxies of the candidates given by content, by position."""
        given = [position for position, candidate in enumerate(candidates) if candidate.item_id is None]
        contents = [await self._checked(candidates[i], f"candidates.{i}.picture") for i in given]
        proxies = await asyncio.gather(*(self._proxy(content) for content in contents))
        return dict(zip(given, proxies, strict=True))

    async def _checked(self, parts: Parts, where: str) -> Content:
        """Content whose picture is known to decode within the limits."""
        if parts.picture:
            try:
                await asyncio.to_thread(
                    decode_picture,
                    parts.picture,
                    max_bytes=self.data.max_picture_bytes,
                    max_pixels=self.data.max_picture_pixels,
                )
            except BadPicture as error:
                raise ApiError(422, "bad_picture", f"{where}: {error}") from error
        return Content(title=parts.title, text=parts.text, picture=parts.picture or None)

    async def _proxy(self, content: Content) -> Vectors:
        """Content -> fine proxy `[d]`; the layer states go from encoder to adaptor without passing here."""
        proxy: Vectors = await self.adaptor.adapt.remote(self.encoder.read.remote(content))
        return proxy

    async def _within(self, work: Awaitable[Answer], seconds: float) -> Answer:
        try:
            return await asyncio.wait_for(_await(work), seconds)
        except TimeoutError as error:
            raise ApiError(504, "timeout", f"the models did not answer within {seconds:g} s") from error
        except BackPressureError as error:
            raise ApiError(429, "busy", "too many requests are waiting; try again", retry_after=1) from error


async def _await(work: Awaitable[Answer]) -> Answer:
    return await work


def _since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)


def make_app(gateway: Gateway) -> FastAPI:
    """The HTTP application of one gateway replica."""
    problems: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (413, 422, 429, 503, 504)}
    app = FastAPI(title="coldstart", version="1", description="Rank with brand-new items.", responses=problems)
    app.add_middleware(BodyLimit, limit=gateway.settings.max_request_bytes)
    errors.install(app)

    @app.post("/v1/items", summary="Publish an item: from its content to a stored proxy")
    async def publish(request: PublishRequest) -> PublishAnswer:
        return await gateway.publish(request)

    @app.post("/v1/rank", summary="Score candidates for a user")
    async def rank(request: RankRequest) -> RankAnswer:
        return await gateway.rank(request)

    @app.get("/v1/release", summary="What is served")
    async def release() -> ReleaseAnswer:
        return gateway.release

    @app.get("/healthz", summary="Whether all models answer a golden request")
    async def healthz() -> HealthAnswer:
        return await gateway.health()

    return app
