"""The encoder deployment. Legend: `d` ID width, `D` MLLM width, `G` layer groups."""

import asyncio
from pathlib import Path

import torch
from ray import serve

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.serving.batching import BatchWatch, must_be_finite, sized, tune
from coldstart.serving.heaps import tend
from coldstart.serving.scoring import GOLDEN_CONTENT, Reading


class EncoderReplica:
    """Content -> coarse proxy and layer states."""

    def __init__(self, path: Path, settings: Serving) -> None:
        tend()
        torch.set_num_threads(1)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = Encoder.load(path, self.device)
        self.watch = BatchWatch(settings.request_timeout_s)
        tune(self._read, settings)
        must_be_finite("encoder", *self._forward([GOLDEN_CONTENT])[0])

    async def read(self, content: Content) -> tuple[Reading, int]:
        """Reads one item; with it the size of the batch, if it is the first of one."""
        return await self.watch.wait(self._read(content))

    @serve.batch
    async def _read(self, contents: list[Content]) -> list[tuple[Reading, int]]:
        with self.watch.batch():
            return sized(await asyncio.to_thread(self._forward, contents))

    def _forward(self, contents: list[Content]) -> list[Reading]:
        with torch.inference_mode():
            inputs = self.encoder.inputs(self.encoder.prepare(contents), self.device)
            coarse, states = (part.float().cpu().numpy() for part in self.encoder(inputs))
        return list(zip(coarse, states, strict=True))

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()
