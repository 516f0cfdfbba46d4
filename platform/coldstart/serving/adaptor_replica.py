"""The adaptor deployment. Legend: `d` ID width, `D` MLLM width, `G` layer groups."""

from pathlib import Path

import numpy as np
import torch
from ray import serve

from coldstart.alignment import load_adaptor
from coldstart.config.recipe import Serving
from coldstart.serving.batching import BatchWatch, sized, tune
from coldstart.serving.heaps import tend
from coldstart.serving.scoring import Floats, Reading


class AdaptorReplica:
    """Coarse proxy and layer states -> fine proxy."""

    def __init__(self, path: Path, settings: Serving) -> None:
        tend()
        torch.set_num_threads(1)
        self.adaptor = load_adaptor(path)
        self.watch = BatchWatch(settings.request_timeout_s)
        tune(self._adapt, settings)

    async def adapt(self, reading: Reading) -> tuple[Floats, int]:
        """Adapts one item: `[d]`, and the size of the batch, if it is the first of one."""
        return await self.watch.wait(self._adapt(reading))

    @serve.batch
    async def _adapt(self, readings: list[Reading]) -> list[tuple[Floats, int]]:
        with self.watch.batch(), torch.inference_mode():
            coarse, states = (torch.from_numpy(np.stack(part)) for part in zip(*readings, strict=True))
            return sized(list(self.adaptor(coarse, states).numpy()))

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()
