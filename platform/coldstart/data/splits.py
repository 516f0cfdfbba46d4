"""Train, valid and test splits: by time, or by held-out items and users."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldstart.config.errors import UserError
from coldstart.data.schema import TEST, TRAIN, VALID

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
