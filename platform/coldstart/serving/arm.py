"""One release as a gateway sees it: decides which vector stands for each candidate, and calls the models."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from ray.serve.exceptions import BackPressureError

from coldstart.config import UserError
from coldstart.config.recipe import Data, Serving
from coldstart.data.content import BadPicture, Content, decode_picture
from coldstart.data.features import Coded, Owner, Value, of_candidates
from coldstart.serving.call import RankCall
from coldstart.serving.catalogue import Catalogue, Choice
from coldstart.serving.errors import ApiError
from coldstart.serving.models import Models
from coldstart.serving.proxy_store import ProxyStore, Vectors
from coldstart.serving.publications import Proxy
from coldstart.serving.schemas import RankAnswer, ReleaseAnswer
from coldstart.serving.scoring import GOLDEN_CONTENT, Floats, RankQuery, golden_query
from coldstart.serving.watch import Watch

_HEALTH_SECONDS = 10.0
Answer = TypeVar("Answer")


class Arm:
    """One release; whatever it answers is of that release alone.

    Args:
        release: Names only, so that a gateway needs neither MLflow nor the models.
        models: Of the release.
        catalogue: Of the release.
        store: Proxies of the release.
        settings: The recipe's section.
        data: Limits of pictures.
        watch: Told how long the stages of a request take.
    """

    def __init__(
        self,
        release: ReleaseAnswer,
        models: Models,
        catalogue: Catalogue,
        store: ProxyStore,
        settings: Serving,
        data: Data,
        watch: Watch,
    ) -> None:
        self.release, self.models, self.catalogue, self.store = release, models, catalogue, store
        self.settings, self.data, self.watch = settings, data, watch
        self._golden_proxy: Vectors | None = None

    async def read(self, content: Content, features: Mapping[str, Value] | None) -> Proxy:
        """What stands for an item of this content and these raw features.

        Raises:
            ApiError: the picture or a feature cannot be used, or the models do not answer in time.
        """
        coded = None if features is None else self._encoded("item", features, "features")
        await self._check(content, "picture")
        vector = await self._answer(self.models.proxy(content))
        return Proxy.of(vector, coded)

    async def rank(self, call: RankCall) -> RankAnswer:
        """Scores the candidates of one user."""
        began = time.perf_counter()
        given, allowed = len(call.candidate_ids), self.settings.max_candidates
        if given > allowed:
            raise ApiError(422, "invalid", f"candidates: {given} are given, at most {allowed} are allowed")
        choice = self.catalogue.choose(call.candidate_ids)
        features = self._features(call, choice)
        self.watch.stage("choose", time.perf_counter() - began)
        proxies = choice.proxies | await self._contents(call.contents)
        positions = sorted(proxies)
        query = RankQuery(
            history_idx=self.catalogue.indices(call.history_ids),
            history_label=call.history_labels,
            history_time=call.history_times,
            item_idx=choice.item_idx,
            now=int(time.time()) if call.now is None else call.now,
            positions=np.array(positions, np.int64),
            proxies=np.array([proxies[position] for position in positions], np.float32),
            features=features,
            id_shares=np.array([choice.id_shares.get(position, 0) for position in positions], np.float32),
        )
        sent = time.perf_counter()
        scores = await self._answer(self.models.rank(query))
        self.watch.stage("rank", time.perf_counter() - sent)
        if not np.isfinite(scores).all():
            raise RuntimeError(f"{self.release.release} gives scores that are not finite")
        return RankAnswer(
            scores=scores.tolist(), vectors=choice.vectors, release=self.release.release, ms=_since(began)
        )

    async def score(self, queries: Sequence[RankQuery]) -> list[Floats]:
        """Click probabilities `[T]` of each query."""
        return await self._answer(asyncio.gather(*map(self.models.rank, queries)))

    def take_in(self) -> None:
        """Takes in what was published since, and tells how long that waited; done without being asked for it, too."""
        self.store.catch_up()
        self.watch.held(self.store.newest_at, self.store.delays())

    async def health(self) -> None:
        """Sends a golden request through every model; the encoder only until it has answered once.

        Raises:
            ApiError: 503, a model does not answer or answers nonsense.
        """
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                if self._golden_proxy is None:
                    self._golden_proxy = await self.models.proxy(GOLDEN_CONTENT)
                scores = await self.models.rank(golden_query(self._golden_proxy))
        except Exception as error:
            raise ApiError(503, "not_ready", "the models do not answer the golden request", retry_after=1) from error
        if not np.isfinite(scores).all():
            raise ApiError(503, "not_ready", "the golden request gives scores that are not finite", retry_after=1)

    def _features(self, call: RankCall, choice: Choice) -> Coded:
        """Features of all candidates, for this user and moment."""
        given = {
            position: self._encoded("item", features, f"candidates.{position}.features")
            for position, features in call.features.items()
        }
        item = self.catalogue.features(call.candidate_ids, choice.item_idx, given)
        user = self._encoded("user", call.user_features, "user_features")
        context = self._encoded("context", call.context, "context")
        return of_candidates(self.catalogue.schema, item, user, context)

    def _encoded(self, owner: Owner, given: Mapping[str, Value], where: str) -> Coded:
        try:
            return self.catalogue.schema.read(owner, given)
        except UserError as error:
            raise ApiError(422, "invalid", f"{where}: {error}") from error

    async def _contents(self, contents: Mapping[int, Content]) -> dict[int, Vectors]:
        """Proxies of the candidates given by content, by position."""
        if not contents:
            return {}
        for position, content in contents.items():
            await self._check(content, f"candidates.{position}.picture")
        proxies = await self._answer(asyncio.gather(*map(self.models.proxy, contents.values())))
        return dict(zip(contents, proxies, strict=True))

    async def _check(self, content: Content, where: str) -> None:
        """Refuses a picture that does not decode within the limits."""
        if content.picture is None:
            return
        try:
            await asyncio.to_thread(
                decode_picture,
                content.picture,
                max_bytes=self.data.max_picture_bytes,
                max_pixels=self.data.max_picture_pixels,
            )
        except BadPicture as error:
            raise ApiError(422, "bad_picture", f"{where}: {error}") from error

    async def _answer(self, work: Awaitable[Answer]) -> Answer:
        """What the models answer.

        Raises:
            ApiError: 504, nothing in time; 429, too many wait.
        """
        try:
            return await work
        except TimeoutError as error:
            seconds = self.settings.request_timeout_s
            raise ApiError(504, "timeout", f"the models did not answer within {seconds:g} s") from error
        except BackPressureError as error:
            raise ApiError(429, "busy", "too many requests are waiting; try again", retry_after=1) from error


def _since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)
