"""The adaptor deployment."""

import torch
from ray import serve

from coldstart.config.recipe import Serving
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import find_method
from coldstart.methods.base import ItemAdaptor, Parts
from coldstart.serving.core.batching import StallDetector, set_batch_limits, with_batch_size
from coldstart.serving.deployment.replica_process import set_up_process
from coldstart.serving.store.row_layout import Row, adapt_table, stack_rows


class AdaptorReplica:
    """Computes the scorer's row of an item from the encoder's.

    Args:
        method: Name of the release's method.
        parts: Directories of the release's artifacts.
        settings: `serving` of the recipe.
    """

    def __init__(self, method: str, parts: Parts, settings: Serving) -> None:
        set_up_process()
        torch.set_num_threads(1)
        self.adaptor: ItemAdaptor = find_method(method).load_adaptor(parts)
        self.stall_detector = StallDetector(settings.request_timeout_s)
        set_batch_limits(self._adapt, settings)

    async def adapt(self, encoded: Row) -> tuple[Row, int]:
        """The row of one item, and the batch size if it is the first of its batch, else 0."""
        return await self.stall_detector.wait(self._adapt(encoded))

    @serve.batch
    async def _adapt(self, batch: list[Row]) -> list[tuple[Row, int]]:
        with self.stall_detector.batch():
            return with_batch_size(list(adapt_table(self.adaptor, ItemTable.from_rows(stack_rows(batch)))))

    def check_health(self) -> None:
        """Called by Serve."""
        self.stall_detector.check()
