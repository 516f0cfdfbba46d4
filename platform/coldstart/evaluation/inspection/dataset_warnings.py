"""Warnings: what in a dataset will hurt the models that are trained on it, or what their evaluation can show."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from coldstart.evaluation.inspection.event_stats import BURST_S, SplitStats
from coldstart.evaluation.inspection.inspection import Inspection
from coldstart.evaluation.inspection.item_stats import MODALITIES
from coldstart.evaluation.inspection.rejected_rows import CONFLICTS

POOR_ID_EVENTS = 10
"""An ID embedding is poor below so many train events: the end of the slice `few`."""
GAIN_TO_SHOW = 0.03
"""About half of what proxies gain over the OOV row on films (+.07, workloads/benchmarks/results/science.md)."""
DRIFT = 0.1
"""Change of the click rate between splits, as a share of that of train."""
_SURE = 4.0
"""Standard errors by which a change of the click rate exceeds chance; clicks of a user are not independent."""
MOVING_STATE = 0.1
"""Distance of the GAUC of a score that knows no item from one half."""
NO_HISTORY = 0.1
"""Share of the test rows."""
ONE_CLASS = 0.2
"""Share of the cold test rows, or of all test rows if none is cold."""
ONE_BURST = 0.2
"""Share of the users."""
MISSING = 0.5
"""Share of the items."""
MISSING_MORE = 0.1
"""Difference of the shares of cold items and of those with train events."""
COPIES = 0.05
"""Share of the cold items."""
REUSED = 0.01
"""Rows with the id of another item, as a share of the items."""


@dataclass(frozen=True)
class DatasetWarning:
    """Something that will hurt.

    Attributes:
        name: Identifies the kind of warning.
        what: The problem, with its number.
        why: What it does to models or to their evaluation.
        fix: What the user can do.
    """

    name: str
    what: str
    why: str
    fix: str


def find_warnings(inspection: Inspection) -> list[DatasetWarning]:
    """All warnings, what concerns the whole evaluation first."""
    checks = (
        _cold_rows,
        _moving_state,
        _id_space,
        _label_drift,
        _history,
        _one_class,
        _one_burst,
        _missing,
        _copies,
        _reused_ids,
    )
    return [found for check in checks for found in check(inspection)]


def _cold_rows(inspection: Inspection) -> Iterator[DatasetWarning]:
    cold, gain = inspection.events.cold, inspection.events.smallest_gain
    if not cold.rows:
        yield DatasetWarning(
            "no_cold_rows",
            "no test row is about a cold item",
            "what a method is worth on new items cannot be measured",
            "set data.split.kind: item_holdout, or raise data.split.test",
        )
    elif math.isnan(gain):
        yield DatasetWarning(
            "few_cold_rows",
            f"few cold test rows: no user both clicks and skips in the {cold.rows:,} rows",
            "GAUC on cold items is undefined",
            "bring more events, raise data.split.test, or set data.split.kind: item_holdout",
        )
    elif gain > GAIN_TO_SHOW:
        users = cold.users - cold.one_class_users
        yield DatasetWarning(
            "few_cold_rows",
            f"few cold test rows: {cold.rows:,} rows, {users:,} users with clicks and skips among them; the smallest "
            f"gain in GAUC that they can show is {gain:.3f}",
            "smaller gains over the OOV row look like chance (80 % power, 95 % confidence), so a method may seem "
            "useless that is not",
            "bring more events, raise data.split.test, or hold out more items (data.split.kind: item_holdout)",
        )


def _moving_state(inspection: Inspection) -> Iterator[DatasetWarning]:
    found = inspection.events.click_rate_gauc
    if abs(found - 0.5) > MOVING_STATE:
        yield DatasetWarning(
            "moving_user_state",
            f"a score that knows no item, the click rate of the user so far, has GAUC {found:.2f} on cold test rows",
            "rows of one user are from different times, and a click rate falls after a skip while the clicks of a "
            "finite log are still to come, so GAUC rewards scores that ignore the user",
            "read item GAUC, as `evaluate` and `compare` do; give the impressions of one request the same timestamp",
        )


def _id_space(inspection: Inspection) -> Iterator[DatasetWarning]:
    median = inspection.items.train_events.median(at_least=1)
    if median < POOR_ID_EVENTS:
        yield DatasetWarning(
            "poor_id_space",
            f"the ID space will be poor: {median:g} train events per item (median of the items that have any)",
            "an ID embedding that is learned from so few events is mostly noise, so a proxy that imitates it gains "
            "nothing, and neither does alignment with it",
            "use what reads the content of the history as well: content_similarity, saviorrec or mim; `coldstart run "
            "compare --methods content_similarity saviorrec mim` says which one",
        )


def _label_drift(inspection: Inspection) -> Iterator[DatasetWarning]:
    splits = inspection.events.splits
    train = splits["train"]
    changes = {name: _change(train, split) for name, split in splits.items()}
    name = max(changes, key=lambda one: changes[one])
    if changes[name] > DRIFT:
        yield DatasetWarning(
            "label_drift",
            f"label drift: the click rate is {train.click_rate:.1%} in train and {splits[name].click_rate:.1%} in "
            f"{name}",
            "predicted click rates will be off by as much, and calibration and log loss suffer; GAUC does not",
            "see the click rate over time on the page: start the log after a change of surface or logging; otherwise "
            "train more often",
        )


def _change(train: SplitStats, split: SplitStats) -> float:
    """Relative change of the click rate; 0 if it may be chance."""
    if not train.clicks or not split.events:
        return 0.0
    rate = train.click_rate
    error = math.sqrt(rate * (1 - rate) * (1 / train.events + 1 / split.events))
    difference = abs(split.click_rate - rate)
    return difference / rate if difference > _SURE * error else 0.0


def _history(inspection: Inspection) -> Iterator[DatasetWarning]:
    rows, without = inspection.events.test.rows, inspection.events.without_history
    if without > NO_HISTORY * rows:
        yield DatasetWarning(
            "no_history",
            f"{without:,} of {rows:,} test rows ({without / rows:.0%}) have no history: nothing of their user is "
            "earlier",
            "for them a score can only be the item effect, and methods that read the history have nothing to read",
            "bring a longer log of the same users",
        )


def _one_class(inspection: Inspection) -> Iterator[DatasetWarning]:
    events = inspection.events
    which, rows = ("cold test rows", events.cold) if events.cold.rows else ("test rows", events.test)
    if rows.one_class_rows > ONE_CLASS * rows.rows:
        yield DatasetWarning(
            "one_class_users",
            f"{rows.one_class_users:,} of {rows.users:,} users have one class only; they own "
            f"{rows.one_class_rows / rows.rows:.0%} of the {rows.rows:,} {which}",
            "GAUC compares clicks and skips of the same user, so these rows count for nothing",
            "log impressions that were not clicked; for a log of clicks alone, raise data.negatives.per_click",
        )


def _one_burst(inspection: Inspection) -> Iterator[DatasetWarning]:
    events = inspection.events
    if events.burst_users > ONE_BURST * events.users:
        share = events.burst_events / max(events.events, 1)
        yield DatasetWarning(
            "one_burst_users",
            f"{events.burst_users / events.users:.0%} of the users have all their events within {BURST_S // 60} "
            f"minutes ({share:.0%} of the events)",
            "the order of their events says little, and a split by time puts all of them into one split, so their test "
            "rows have no history from training",
            "check that data.files.columns.timestamp is the time of the event, not of an import; otherwise bring a "
            "longer log",
        )


def _missing(inspection: Inspection) -> Iterator[DatasetWarning]:
    for name in MODALITIES:
        found = inspection.items.missing[name]
        if name in ("image", "title and text") and found.share > MISSING:
            key = "use_image" if name == "image" else "use_text"
            yield DatasetWarning(
                "missing_content",
                f"{found.share:.0%} of the items have no {name}",
                "the encoder reads nothing there, and gives such items nearly the same vector",
                f"map the column (data.files.columns), or set content.{key}: false",
            )
        elif found.cold_share - found.warm_share > MISSING_MORE:
            yield DatasetWarning(
                "missing_content",
                f"{found.cold_share:.0%} of the cold items have no {name}, but {found.warm_share:.0%} of the items "
                "with train events",
                "the encoder is trained on items that are described better than those that it is made for",
                "find out why new items lack it (for example, it arrives after the first events), and bring it",
            )


def _copies(inspection: Inspection) -> Iterator[DatasetWarning]:
    items = inspection.items
    if items.cold_copies > COPIES * items.cold:
        yield DatasetWarning(
            "cold_copies",
            f"{items.cold_copies:,} of {items.cold:,} cold items have the same content as an item with train events",
            "they are old items under a new id: results on cold items will be better than on items that are new",
            "give an item one id in the items and the events table before prepare",
        )


def _reused_ids(inspection: Inspection) -> Iterator[DatasetWarning]:
    conflicts = [one for one in inspection.rejected if one.reason in CONFLICTS]
    for one in conflicts:
        units = inspection.items.items if one.table == "items" else inspection.events.users
        if one.rows > REUSED * units:
            shown = f", for example {', '.join(one.examples)}" if one.examples else ""
            yield DatasetWarning(
                "reused_ids",
                f"{one.rows:,} rows of the {one.table} table repeat an id with other values{shown}",
                "the first row is used; if the id stands for something else later, its events belong to two things",
                "keep the newest row of each id, or make ids unique over time",
            )
