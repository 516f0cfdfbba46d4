"""The encoder deployment. Legend: `d` ID width, `D` MLLM width, `G` layer groups."""

import asyncio
from pathlib import Path

import torch
from ray import serve

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.serving.batching import StallDetector, check_finite, set_batch_limits, with_batch_size
from coldstart.serving.malloc import limit_heap_growth
from coldstart.serving.scoring import GOLDEN_CONTENT, EncoderOutput


class EncoderReplica:
    """Computes coarse proxies and layer states from contents."""

    def __init__(self, path: Path, settings: Serving) -> None:
        limit_heap_growth()
        torch.set_num_threads(1)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = Encoder.load(path, self.device)
        self.stall_detector = StallDetector(settings.request_timeout_s)
        set_batch_limits(self._encode, settings)
        check_finite("encoder", *self._forward([GOLDEN_CONTENT])[0])

    async def encode(self, content: Content) -> tuple[EncoderOutput, int]:
        """Encodes one item; also returns the batch size if it is the first of its batch, else 0."""
        return await self.stall_detector.wait(self._encode(content))

    @serve.batch
    async def _encode(self, contents: list[Content]) -> list[tuple[EncoderOutput, int]]:
        with self.stall_detector.batch():
            return with_batch_size(await asyncio.to_thread(self._forward, contents))

    def _forward(self, contents: list[Content]) -> list[EncoderOutput]:
        with torch.inference_mode():
            inputs = self.encoder.inputs(self.encoder.prepare(contents), self.device)
            coarse, states = (part.float().cpu().numpy() for part in self.encoder(inputs))
        return list(zip(coarse, states, strict=True))

    def check_health(self) -> None:
        """Called by Serve."""
        self.stall_detector.check()
