"""The adaptor deployment. Legend: `d` ID width, `D` MLLM width, `G` layer groups."""

from pathlib import Path

import numpy as np
import torch
from ray import serve

from coldstart.alignment import load_adaptor
from coldstart.config.recipe import Serving
from coldstart.serving.batching import StallDetector, set_batch_limits, with_batch_size
from coldstart.serving.malloc import limit_heap_growth
from coldstart.serving.scoring import EncoderOutput, Floats


class AdaptorReplica:
    """Computes fine proxies from coarse proxies and layer states."""

    def __init__(self, path: Path, settings: Serving) -> None:
        limit_heap_growth()
        torch.set_num_threads(1)
        self.adaptor = load_adaptor(path)
        self.stall_detector = StallDetector(settings.request_timeout_s)
        set_batch_limits(self._adapt, settings)

    async def adapt(self, encoded: EncoderOutput) -> tuple[Floats, int]:
        """Fine proxy `[d]` of one item, and the batch size if it is the first of its batch, else 0."""
        return await self.stall_detector.wait(self._adapt(encoded))

    @serve.batch
    async def _adapt(self, batch: list[EncoderOutput]) -> list[tuple[Floats, int]]:
        with self.stall_detector.batch(), torch.inference_mode():
            coarse, states = (torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True))
            return with_batch_size(list(self.adaptor(coarse, states).numpy()))

    def check_health(self) -> None:
        """Called by Serve."""
        self.stall_detector.check()
