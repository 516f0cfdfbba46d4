"""The encoder deployment."""

import asyncio

import torch
from ray import serve

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.methods.available import find_method
from coldstart.methods.base import Parts
from coldstart.serving.core.batching import StallDetector, check_finite, set_batch_limits, with_batch_size
from coldstart.serving.core.scoring import GOLDEN_CONTENT
from coldstart.serving.deployment.replica_process import set_up_process
from coldstart.serving.store.row_layout import Row, pack_rows


class EncoderReplica:
    """Computes the encoder's row of an item from its content.

    Args:
        method: Name of the release's method.
        parts: Directories of the artifacts that the encoder reads.
        settings: `serving` of the recipe.
    """

    def __init__(self, method: str, parts: Parts, settings: Serving) -> None:
        set_up_process()
        torch.set_num_threads(1)
        self.encoder = find_method(method).load_encoder(parts, "cuda" if torch.cuda.is_available() else "cpu")
        self.stall_detector = StallDetector(settings.request_timeout_s)
        set_batch_limits(self._encode, settings)
        (golden,) = self._forward([GOLDEN_CONTENT])
        check_finite("encoder", *(golden[name] for name in self.encoder.outputs))

    async def encode(self, content: Content) -> tuple[Row, int]:
        """Encodes one item; also returns the batch size if it is the first of its batch, else 0."""
        return await self.stall_detector.wait(self._encode(content))

    @serve.batch
    async def _encode(self, contents: list[Content]) -> list[tuple[Row, int]]:
        with self.stall_detector.batch():
            return with_batch_size(await asyncio.to_thread(self._forward, contents))

    def _forward(self, contents: list[Content]) -> list[Row]:
        return list(pack_rows(self.encoder.encode(contents), self.encoder.outputs))

    def check_health(self) -> None:
        """Called by Serve."""
        self.stall_detector.check()
