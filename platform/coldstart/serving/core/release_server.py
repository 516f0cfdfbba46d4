"""Serves one release within a gateway: looks up the items and calls the models."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from ray.serve.exceptions import BackPressureError

from coldstart.config import UserError
from coldstart.config.recipe import Data, Serving
from coldstart.data.content import Content, InvalidImageError, decode_image
from coldstart.data.features import EncodedFeatures, Owner, Value, candidate_features
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import RankResponse, ReleaseResponse
from coldstart.serving.core.catalog import Catalog, FoundItems
from coldstart.serving.core.model_handles import ModelHandles
from coldstart.serving.core.scoring import GOLDEN_CONTENT, Floats, RankQuery, golden_query
from coldstart.serving.monitoring.stats_collector import StatsCollector
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.publication_log import ItemRow
from coldstart.serving.store.row_layout import Row

_HEALTH_SECONDS = 10.0
Answer = TypeVar("Answer")


class ReleaseServer:
    """Ranks and encodes items with the models, catalog and item rows of one release.

    Args:
        release: Names and fingerprints only, so that a gateway needs neither MLflow nor the models.
        models: Handles of the release's models.
        catalog: The release's catalog.
        store: The release's item rows.
        settings: The recipe's `serving` section.
        data: The recipe's `data` section, for the limits of images.
        stats: Records the durations of the stages of a request.
    """

    def __init__(
        self,
        release: ReleaseResponse,
        models: ModelHandles,
        catalog: Catalog,
        store: ItemStore,
        settings: Serving,
        data: Data,
        stats: StatsCollector,
    ) -> None:
        self.release, self.models, self.catalog, self.store = release, models, catalog, store
        self.settings, self.data, self.stats = settings, data, stats
        self._golden_row: Row | None = None

    async def encode_item(self, content: Content, features: Mapping[str, Value] | None) -> ItemRow:
        """Encodes an item: the row of its content, and its features.

        Raises:
            ApiError: the image or a feature is invalid, or the models do not answer in time.
        """
        encoded = None if features is None else self._encode_features("item", features, "features")
        await self._check_image(content, "image")
        row = await self._await_models(self.models.row(content))
        return ItemRow.of(row, encoded)

    async def rank(self, call: RankCall) -> RankResponse:
        """Scores the candidates of one user."""
        began = time.perf_counter()
        count, allowed = len(call.candidate_ids), self.settings.max_candidates
        if count > allowed:
            raise ApiError(422, "invalid", f"candidates: {count} are given, at most {allowed} are allowed")
        found = self.catalog.find(call.candidate_ids, call.history_ids)
        features = self._candidate_features(call, found)
        self.stats.record_stage("choose", time.perf_counter() - began)
        found.set_rows(await self._encode_contents(call.contents))
        query = RankQuery(
            history_idx=found.history_idx,
            history_label=call.history_labels,
            history_time=call.history_times,
            item_idx=found.item_idx,
            now=int(time.time()) if call.now is None else call.now,
            rows=found.rows,
            item_row=found.item_row,
            history_row=found.history_row,
            features=features,
        )
        sent = time.perf_counter()
        scores = await self._await_models(self.models.rank(query))
        self.stats.record_stage("rank", time.perf_counter() - sent)
        if not np.isfinite(scores).all():
            raise RuntimeError(f"release {self.release.release} returned scores that are not finite")
        return RankResponse(
            scores=scores.tolist(),
            slot_sources=self.catalog.slot_sources(found),
            release=self.release.release,
            ms=_elapsed_ms(began),
        )

    async def score(self, queries: Sequence[RankQuery]) -> list[Floats]:
        """Click probabilities `[T]` of each query."""
        return await self._await_models(asyncio.gather(*map(self.models.rank, queries)))

    def refresh_store(self) -> None:
        """Loads newly published rows and records their delays; the gateway also calls this without any request."""
        self.store.catch_up()
        self.stats.record_proxies_loaded(self.store.newest_at, self.store.pop_delays())

    async def health(self) -> None:
        """Sends a golden request to every model; to the encoder only until it has answered once.

        Raises:
            ApiError: 503, a model does not answer, or the scores are not finite.
        """
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                if self._golden_row is None:
                    self._golden_row = await self.models.row(GOLDEN_CONTENT)
                scores = await self.models.rank(golden_query(self._golden_row))
        except Exception as error:
            raise ApiError(503, "not_ready", "the models do not answer the golden request", retry_after=1) from error
        if not np.isfinite(scores).all():
            raise ApiError(503, "not_ready", "the scores of the golden request are not finite", retry_after=1)

    def _candidate_features(self, call: RankCall, found: FoundItems) -> EncodedFeatures:
        """Features of all candidates, for this user and context."""
        content_features = {
            position: self._encode_features("item", features, f"candidates.{position}.features")
            for position, features in call.features.items()
        }
        item = self.catalog.features(call.candidate_ids, found.item_idx, content_features)
        user = self._encode_features("user", call.user_features, "user_features")
        context = self._encode_features("context", call.context, "context")
        return candidate_features(self.catalog.schema, item, user, context)

    def _encode_features(self, owner: Owner, values: Mapping[str, Value], where: str) -> EncodedFeatures:
        try:
            return self.catalog.schema.encode_values(owner, values)
        except UserError as error:
            raise ApiError(422, "invalid", f"{where}: {error}") from error

    async def _encode_contents(self, contents: Mapping[int, Content]) -> dict[int, Row]:
        """Position -> row of the candidates given by content."""
        if not contents:
            return {}
        for position, content in contents.items():
            await self._check_image(content, f"candidates.{position}.image")
        rows = await self._await_models(asyncio.gather(*map(self.models.row, contents.values())))
        return dict(zip(contents, rows, strict=True))

    async def _check_image(self, content: Content, where: str) -> None:
        """Refuses an image that cannot be decoded within the limits."""
        if content.image is None:
            return
        try:
            await asyncio.to_thread(
                decode_image,
                content.image,
                max_bytes=self.data.max_image_bytes,
                max_pixels=self.data.max_image_pixels,
            )
        except InvalidImageError as error:
            raise ApiError(422, "bad_image", f"{where}: {error}") from error

    async def _await_models(self, work: Awaitable[Answer]) -> Answer:
        """Awaits the models and translates their errors.

        Raises:
            ApiError: 504, no answer in time; 429, too many requests are waiting.
        """
        try:
            return await work
        except TimeoutError as error:
            seconds = self.settings.request_timeout_s
            raise ApiError(504, "timeout", f"the models did not answer within {seconds:g} s") from error
        except BackPressureError as error:
            raise ApiError(429, "busy", "too many requests are waiting; try again", retry_after=1) from error


def _elapsed_ms(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)
