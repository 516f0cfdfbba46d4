"""The adaptor deployment. Legend: `d` ID width, `D` MLLM width, `G` layer groups."""

from pathlib import Path

import numpy as np
import torch
from ray import serve

from coldstart.alignment import load_adaptor
from coldstart.config.recipe import Serving
from coldstart.serving.batching import BatchWatch, tune
from coldstart.serving.scoring import Floats, Reading


class AdaptorReplica:
    """Coarse proxy and layer states -> fine proxy."""

    def __init__(self, path: Path, settings: Serving) -> None:
        torch.set_num_threads(1)
        self.adaptor = load_adaptor(path)
        self.watch = BatchWatch(settings.request_timeout_s)
        tune(self._adapt, settings)

    async def adapt(self, reading: Reading) -> Floats:
        """Adapts one item: `[d]`."""
        return await self.watch.wait(self._adapt(reading))

    @serve.batch
    async def _adapt(self, readings: list[Reading]) -> list[Floats]:
        with self.watch.batch(), torch.inference_mode():
            coarse, states = (torch.from_numpy(np.stack(part)) for part in zip(*readings, strict=True))
            return list(self.adaptor(coarse, states).numpy())

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()
