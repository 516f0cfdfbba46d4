"""Checks of values that can be read but cannot be meant: a log of one label, times in another unit, unknown ids."""

import datetime as dt
import re
import time
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coldstart.config.errors import UserError
from coldstart.config.recipe import Files
from coldstart.data.arrow_types import is_text, plain_type, text_or_plain
from coldstart.data.cleaning import (
    BAD_LABEL,
    BAD_TIME,
    FAR_TIME,
    FUTURE_TIME,
    LOSSY_ID,
    NO_RATING,
    UNKNOWN_ITEM,
)
from coldstart.data.readers import SourceTable, file_splits, read_file_split
from coldstart.data.value_forms import compare_ids, examples, label_form, spelling_difference, time_form

_FEW = 20
"""Fewer events do not show a form."""
_SAMPLED_SPLITS = 8
_MIXED = 0.05
"""More of both kinds are not single bad rows."""
_EARLIEST_DATE = 631_152_000  # 1990-01-01
_NO_NEGATIVES = (
    "a log of clicks only teaches nothing about what users ignore: set data.files.columns.label: null and "
    "data.negatives: {per_click: 4} to draw items that others clicked about that time, or, better, add the impressions "
    "without a click with label 0"
)
_FORMS = "Unix seconds or ISO 8601 text (2024-01-31T12:00:00Z) are expected"


def explain_rejection(reason: str, values: list[str], known_items: pa.Array) -> str:
    """Examples of rejected values, their likely cause and the fix; "" if the reason says all.

    Args:
        reason: Why the rows were rejected.
        values: Their values of the column that the reason is about.
        known_items: item_id of every item.
    """
    if not values:
        return ""
    shown = f"for example {examples(values)}"
    if reason == UNKNOWN_ITEM:
        return compare_ids(values, known_items.to_pylist(), "items", "item_id")
    if reason in (BAD_LABEL, NO_RATING):
        return f"{shown}: {label_form(values)}"
    if reason == FUTURE_TIME:
        today = dt.datetime.fromtimestamp(time.time(), dt.UTC).date().isoformat()
        return f"{shown}: this machine's date is {today}; check the clock and the unit of the times ({_FORMS})"
    if reason in (FAR_TIME, BAD_TIME):
        form = time_form(np.array([_number(value) for value in values]))
        return f"{shown}: these look like {form} ({_FORMS})" if form else f"{shown}: {_FORMS}"
    if reason == LOSSY_ID:
        return f"{shown}: export the ids again as text or as integers; their last digits are lost here"
    return shown


def _number(value: str) -> float:
    # 2024-01-31 12:00 and 2024/01/31 are dates, not numbers.
    return float(value) if re.fullmatch(r"\s*[+-]?\d+(\.\d*)?([eE][+-]?\d+)?\s*", value) else np.nan


def check_events(events: pa.Table, kind: pa.DataType, files: Files) -> None:
    """Checks the events that cleaning kept.

    Args:
        events: Their columns timestamp and label.
        kind: Type of the user's column of times.
        files: The recipe section `data.files`.

    Raises:
        UserError: there is no event, all have one label, or the times have another unit.
    """
    count, clicks = len(events), pc.sum(events["label"].cast(pa.int64())).as_py() or 0
    if count == 0:
        raise UserError("data.files.events: no event is valid; see the reasons in the quarantine, and mend the table")
    if files.columns.label is not None and clicks in (0, count):
        positive_threshold = files.positive_threshold
        label = int(clicks > 0)
        message = f"data.files.columns.label: all {count} valid events have label {label}"
        if positive_threshold is not None:
            raise UserError(
                f"{message} with data.files.positive_threshold {positive_threshold:g}: "
                f"{'raise' if label else 'lower'} it, so that there are clicks and other impressions"
            )
        missing = _NO_NEGATIVES if label else "without a click nothing can be learned: check which column says clicked"
        raise UserError(f"{message}: {missing}")
    dated = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    _check_times(np.asarray(events["timestamp"]).astype(np.float64), dated=dated)


def _check_times(times: np.ndarray, *, dated: bool) -> None:
    if len(times) < _FEW:
        return
    shown = examples(int(value) for value in times)
    if dated and np.median(times) < _EARLIEST_DATE:
        first = dt.datetime.fromtimestamp(float(np.median(times)), dt.UTC).isoformat()
        raise UserError(
            f"data.files.columns.timestamp: most events are before 1990 (median {first}; as Unix seconds {shown}): "
            "the column was probably converted from numbers with a wrong unit; convert it again, for example with "
            "pandas.to_datetime(column, unit='s')"
        )
    if np.median(times) < _EARLIEST_DATE and (form := time_form(times)):
        raise UserError(
            f"data.files.columns.timestamp: {shown} and most others look like {form}, not Unix seconds, which would "
            "put all events into 1970. Convert them to Unix seconds or ISO 8601 text (2024-01-31T12:00:00Z); if they "
            "are seconds since the start of the log, add 1000000000"
        )


def check_time_zones(table: SourceTable, column: str) -> None:
    """Checks that text times either all have a time zone, or none has, by the first rows of some files.

    Args:
        table: The events.
        column: Name of the column of times.

    Raises:
        UserError: many of both kinds exist; those without a zone would be taken for UTC.
    """
    if not is_text(plain_type(table.types[column])):
        return
    splits = file_splits(table)
    sample = splits[:: -(-len(splits) // _SAMPLED_SPLITS)]
    batches = [next(iter(read_file_split(one, [column], field=table.name)), None) for one in sample]
    columns = [text_or_plain(batch.table[column]) for batch in batches if batch is not None]
    text = pa.chunked_array([part.cast(pa.string()) for part in columns if is_text(part.type)], pa.string())
    text = pc.utf8_trim_whitespace(text.drop_null())
    dates = text.filter(pc.match_substring_regex(text, r"^\d{4}-?\d{2}-?\d{2}[T ]\d{2}"))
    zoned = np.asarray(pc.match_substring_regex(dates, r"(Z|[+-]\d{2}(:?\d{2})?)$"))
    few = max(_FEW // 2, _MIXED * len(text))
    if zoned.sum() > few and (~zoned).sum() > few:
        with_zone, without = (examples(dates.filter(pa.array(mask)).to_pylist()) for mask in (zoned, ~zoned))
        raise UserError(
            f"data.files.columns.timestamp: column '{column}' has times with a zone ({with_zone}) and without one "
            f"({without}), which are read as UTC; write all of them with a zone, or convert all to UTC"
        )


def check_splits(splits: Mapping[str, tuple[int, int]], longest: int) -> None:
    """Checks the splits of a dataset.

    Args:
        splits: Split -> number of events, number of clicks.
        longest: Number of events of the user with the most events.

    Raises:
        UserError: a split has events of one label only, or no user has two events.
    """
    if longest < 2:
        raise UserError(
            "data.files.columns.user_id: every user has only one event, so no event has a history and nothing about "
            "a user can be learned; check that the column names users, not sessions, requests or rows"
        )
    for name, (count, clicks) in splits.items():
        if count and clicks in (0, count):
            raise UserError(
                f"data.split: all {count} events of the {name} split have label {int(clicks > 0)} (events and clicks "
                f"of each split: {_counts(splits)}); check data.files.columns.label and data.files.columns.timestamp, "
                "or change data.split"
            )


def _counts(splits: Mapping[str, Iterable[int]]) -> str:
    return ", ".join(f"{name} {events} and {clicks}" for name, (events, clicks) in splits.items())


def check_users(users: pa.Array, known: pa.Array) -> None:
    """Checks that the users table describes the users of the events.

    Args:
        users: user_id of the users of events.
        known: user_id of the users table.

    Raises:
        UserError: no user is in the table, or most are not because their ids are spelled in another way.
    """
    unknown = users.filter(pc.invert(pc.is_in(users, value_set=known))).to_pylist()
    table = known.to_pylist()
    if len(unknown) == len(users) or (len(unknown) > len(users) / 2 and spelling_difference(unknown, table)):
        raise UserError(
            f"data.files.users: {len(unknown)} of {len(users)} users of the events are not in the users table; "
            f"{compare_ids(unknown, table, 'users', 'user_id')}"
        )
