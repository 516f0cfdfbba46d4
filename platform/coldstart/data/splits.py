"""Train, valid and test splits: by time, or by held-out items and users."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.config.errors import UserError
from coldstart.config.recipe import Data
from coldstart.data.schema import EXCLUDED, SPLITS, TEST, TRAIN, VALID

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TimeCuts:
    """Events before `valid_from` are train, events from `test_from` on are test, others are valid (Unix seconds)."""

    valid_from: int
    test_from: int

    def codes(self, timestamp: Ints) -> NDArray[np.int8]:
        """Split codes of events."""
        return np.select([timestamp >= self.test_from, timestamp >= self.valid_from], [TEST, VALID], TRAIN).astype(
            np.int8
        )


def time_cuts(timestamp: Ints, valid: float, test: float) -> TimeCuts:
    """Cuts at quantiles of the event times; events with the same timestamp get the same split.

    Args:
        timestamp: [n] times of all events.
        valid: Fraction of events in the valid split.
        test: Fraction of events, the last ones, in the test split.

    Raises:
        UserError: timestamps are so coarse that no event is left to train on.
    """
    ordered = np.sort(timestamp)
    end = int(ordered[-1]) + 1

    def cut(share: float) -> int:
        position = int(np.ceil(round((1 - share) * len(ordered), 6)))
        return int(ordered[position]) if position < len(ordered) else end

    cuts = TimeCuts(cut(valid + test), cut(test))
    if cuts.valid_from <= int(ordered[0]):
        raise UserError(
            f"data.split: all events before the cut share one timestamp ({ordered[0]}), so a temporal split leaves "
            "nothing to train on; lower split.valid and split.test, or set split.kind: item_holdout"
        )
    return cuts


def hold_out_items(count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """[count] mask of a seeded fraction of the items, by position in the catalog."""
    held = np.zeros(count, bool)
    held[np.random.default_rng([seed, 1]).permutation(count)[: round(share * count)]] = True
    return held


def user_codes(count: int, valid: float, test: float, seed: int) -> NDArray[np.int8]:
    """[count] split code of each user: seeded fractions of the users are valid and test with all their events."""
    order = np.random.default_rng([seed, 2]).permutation(count)
    tests, valids = round(test * count), round(valid * count)
    codes = np.full(count, TRAIN, np.int8)
    codes[order[:tests]] = TEST
    codes[order[tests : tests + valids]] = VALID
    return codes


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

    def excluded(self, events: pa.Table) -> pa.Table:
        """Row numbers of the valid events that the split keeps out of all sequences."""
        valid = events.filter(pc.field("reason").is_null())
        left_out = pc.invert(pc.is_in(valid["row"], value_set=self.assign(events)["row"].combine_chunks()))
        return valid.select(["row"]).filter(left_out)

    def split(self, events: pa.Table) -> NDArray[np.int8]:
        """Split codes of events that have user_idx, item_idx and timestamp."""
        if self.cuts is not None:
            return self.cuts.codes(np.asarray(events["timestamp"]))
        codes = self.codes[np.asarray(events["user_idx"])]
        held_out = self.held_out_items[np.asarray(events["item_idx"])]
        return np.where((codes == TRAIN) & held_out, EXCLUDED, codes).astype(np.int8)


def split_counts(events: pa.Table) -> dict[str, tuple[int, int]]:
    """Split -> number of events and number of clicks, of assigned events."""
    split, label = np.asarray(events["split"]), np.asarray(events["label"])
    return {name: (int((split == code).sum()), int(label[split == code].sum())) for name, code in SPLITS.items()}


def held_out_items(data: Data, items: int, seed: int) -> NDArray[np.bool_]:
    """[items + 1] mask of the items that the split keeps out of training."""
    mask = np.zeros(items + 1, bool)
    if data.split.kind == "item_holdout":
        mask[1:] = hold_out_items(items, data.split.holdout_items, seed)
    return mask


def users_of(events: pa.Table, held_out: NDArray[np.bool_]) -> pa.Table:
    """Users of some valid events, and whether all items that each saw are held out."""
    kept = events.filter(pc.field("reason").is_null())
    users = pa.table({"user_id": kept["user_id"], "held": pa.array(held_out[np.asarray(kept["item_idx"])])})
    return _by_user(users)


def draw_split(users: pa.Table, times: Ints, held_out: NDArray[np.bool_], data: Data, seed: int) -> SplitPlan:
    """Draws the split.

    Args:
        users: `users_of` all blocks of events.
        times: [n] Unix seconds of all valid events, for a temporal split.
        held_out: Mask of items that are kept out of training.
        data: Says which split, and its fractions.
        seed: Of the item holdout.

    Raises:
        UserError: a temporal split leaves nothing to train on.
    """
    split, seen = data.split, _by_user(users).sort_by("user_id")
    names = seen["user_id"].combine_chunks()
    if split.kind == "temporal":
        cuts = time_cuts(times, split.valid, split.test)
        return SplitPlan(names, cuts, np.full(len(names), TRAIN, np.int8), held_out)
    codes = user_codes(len(names), split.valid, split.test, seed)
    # A train user who saw only held-out items has no events left.
    kept = ~((codes == TRAIN) & np.asarray(seen["held"]))
    if TRAIN not in codes[kept]:
        raise UserError(
            f"data.split: no user of the train split saw an item that is not held out ({len(names)} users, "
            f"{held_out.sum()} of {len(held_out) - 1} items held out); lower split.holdout_items, split.valid and "
            "split.test, or set split.kind: temporal"
        )
    return SplitPlan(names.filter(pa.array(kept)), None, codes[kept], held_out)


def _by_user(users: pa.Table) -> pa.Table:
    return users.group_by("user_id").aggregate([("held", "min")]).rename_columns(["user_id", "held"])
