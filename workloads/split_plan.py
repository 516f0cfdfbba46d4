"""Which split every event goes to, and which users have a sequence."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from numpy.typing import NDArray

from coldstart.config.recipe import Data
from coldstart.data.schema import EXCLUDED, TRAIN
from coldstart.data.splits import TimeCuts, hold_out_items, time_cuts, user_codes
from workloads.ray_tables import select_columns


@dataclass(frozen=True)
class SplitPlan:
    """Assigns cleaned events to users and splits.

    Attributes:
        users: user_id in order of index.
        cuts: Of a temporal split; None for an item holdout.
        codes: [users] split code of each user, for an item holdout.
        held_out_items: [items + 1] items that are kept out of training.
        keep_excluded: Whether `assign` keeps the events that training must not see.
    """

    users: pa.Array
    cuts: TimeCuts | None
    codes: NDArray[np.int8]
    held_out_items: NDArray[np.bool_]
    keep_excluded: bool = False

    def assign(self, events: pa.Table) -> pa.Table:
        """The valid events of known users, with user_idx and split."""
        kept = events.filter(pc.field("reason").is_null()).drop_columns(["key", "reason", "value"])
        kept = kept.append_column("user_idx", pc.index_in(kept["user_id"], value_set=self.users))
        kept = kept.filter(pc.field("user_idx").is_valid())
        kept = kept.append_column("split", pa.array(self.split(kept)))
        return kept if self.keep_excluded else kept.filter(pc.field("split") != EXCLUDED)

    def split(self, events: pa.Table) -> NDArray[np.int8]:
        """Split codes of events that have user_idx, item_idx and timestamp."""
        if self.cuts is not None:
            return self.cuts.codes(np.asarray(events["timestamp"]))
        codes = self.codes[np.asarray(events["user_idx"])]
        held_out = self.held_out_items[np.asarray(events["item_idx"])]
        return np.where((codes == TRAIN) & held_out, EXCLUDED, codes).astype(np.int8)


def plan_split(events: ray.data.Dataset, data: Data, items: int, seed: int) -> SplitPlan:
    """Plans the split of cleaned events.

    Args:
        events: Cleaned events, rejected ones included.
        data: Says which split, and its fractions.
        items: Number of items.
        seed: Of the item holdout.

    Raises:
        UserError: a temporal split leaves nothing to train on.
    """
    split = data.split
    held_out = np.zeros(items + 1, bool)
    if split.kind == "item_holdout":
        held_out[1:] = hold_out_items(items, split.holdout_items, seed)

    def users_of(block: pa.Table) -> pa.Table:
        kept = block.filter(pc.field("reason").is_null())
        users = pa.table({"user_id": kept["user_id"], "held": pa.array(held_out[np.asarray(kept["item_idx"])])})
        return users.group_by("user_id").aggregate([("held", "min")]).rename_columns(["user_id", "held"])

    reduced = events.map_batches(users_of, batch_size=None, batch_format="pyarrow")
    seen = select_columns(reduced, ["user_id", "held"])
    seen = seen.group_by("user_id").aggregate([("held", "min")]).sort_by("user_id")
    users = seen["user_id"].combine_chunks()
    if split.kind == "temporal":
        times = select_columns(events, ["timestamp", "reason"]).filter(pc.field("reason").is_null())["timestamp"]
        cuts = time_cuts(np.asarray(times), split.valid, split.test)
        return SplitPlan(users, cuts, np.full(len(users), TRAIN, np.int8), held_out)
    codes = user_codes(len(users), split.valid, split.test, seed)
    # A train user who saw only held-out items has no events left.
    kept = ~((codes == TRAIN) & np.asarray(seen["held_min"]))
    return SplitPlan(users.filter(pa.array(kept)), None, codes[kept], held_out)
