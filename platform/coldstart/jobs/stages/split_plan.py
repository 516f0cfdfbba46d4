"""Plans the split of a dataset: which split every event goes to, and which users have a sequence."""

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from coldstart.config.recipe import Data
from coldstart.data.splits import SplitPlan, draw_split, held_out_items, users_of
from coldstart.jobs.stages.ray_tables import map_blocks, to_table


def plan_split(events: ray.data.Dataset, times: NDArray[np.int64], data: Data, items: int, seed: int) -> SplitPlan:
    """Plans the split of cleaned events.

    Args:
        events: Cleaned events, rejected ones included.
        times: [n] Unix seconds of the valid events.
        data: Says which split, and its fractions.
        items: Number of items.
        seed: Of the item holdout.

    Raises:
        UserError: a temporal split leaves nothing to train on.
    """
    held_out = held_out_items(data, items, seed)

    def reduce(block: pa.Table) -> pa.Table:
        return users_of(block, held_out)

    return draw_split(to_table(map_blocks(events, reduce)), times, held_out, data, seed)
