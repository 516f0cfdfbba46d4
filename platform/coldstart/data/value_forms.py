"""What values of a user's table look like when they are not what the column needs, and how to convert them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

_MOST = 0.9
"""Share of the values that must fit a form."""
_YEARS = (1990, 2035)
_SECONDS = (631_152_000, 4_102_444_800)  # 1990 to 2100
_EXCEL_DAYS = (32_874, 49_674)  # 1990 to 2035, days since 1899-12-30
_UNIX_DAYS = (7_305, 23_741)  # 1990 to 2035
_MAX_IDS = 2_000

Floats = NDArray[np.float64]


def examples(values: Iterable[object], count: int = 3) -> str:
    """The first distinct values, quoted, for an error message."""
    shown = dict[str, None]()
    for value in values:
        shown[str(value)] = None
        if len(shown) == count:
            break
    return ", ".join(repr(value if len(value) <= 60 else value[:57] + "...") for value in shown)


def time_form(values: Floats) -> str | None:
    """What most of these numbers are if they are times but not Unix seconds, and the conversion; None if unknown.

    Args:
        values: Numbers, NaN where a value is none.
    """
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return None
    for fits, text in (
        (_between(known, *(bound * 1e3 for bound in _SECONDS)), "Unix milliseconds: divide them by 1000"),
        (_between(known, *(bound * 1e6 for bound in _SECONDS)), "Unix microseconds: divide them by 1000000"),
        (_between(known, *(bound * 1e9 for bound in _SECONDS)), "Unix nanoseconds: divide them by 1000000000"),
        (_dates(known), "dates written as numbers (YYYYMMDD)"),
        (_dates(known // 1e2) & _between(known % 100, 0, 23), "dates written as numbers (YYYYMMDDhh)"),
        (_dates(known // 1e4) & _between(known % 1e4, 0, 2359), "dates written as numbers (YYYYMMDDhhmm)"),
        (_dates(known // 1e6) & _between(known % 1e6, 0, 235_959), "dates written as numbers (YYYYMMDDhhmmss)"),
        (_dates(known * 100 + 1), "months written as numbers (YYYYMM)"),
        (_between(known, *_YEARS), "years"),
        (_between(known, *_EXCEL_DAYS), "days of a spreadsheet, counted from 1899-12-30: (days - 25569) * 86400"),
        (_between(known, *_UNIX_DAYS), "days since 1970: multiply them by 86400"),
    ):
        if fits.mean() >= _MOST:
            return text
    return None


def _between(values: Floats, low: float, high: float) -> NDArray[np.bool_]:
    return (values >= low) & (values <= high)


def _dates(values: Floats) -> NDArray[np.bool_]:
    """Mask of the whole numbers YYYYMMDD."""
    year, month, day = values // 10_000, values // 100 % 100, values % 100
    dates: NDArray[np.bool_] = (
        _between(year, *_YEARS) & _between(month, 1, 12) & _between(day, 1, 31) & (values % 1 == 0)
    )
    return dates


def label_form(values: list[str]) -> str:
    """What labels are that are not 0 and 1, and how to make them so.

    Args:
        values: Some rejected labels.
    """
    numbers = {number for number in map(_number, values) if number is not None}
    words = [value for value in values if _number(value) is None]
    if len(words) > len(values) / 2:
        return "these are words: write 1 for a click and 0 for an impression without a click"
    if numbers == {-1.0}:
        return "these are signs: set data.files.positive_threshold: 1, so that 1 stays 1 and -1 becomes 0"
    if all(0 < number < 1 for number in numbers):
        return "these are fractions: set data.files.positive_threshold to the smallest one that counts as a click"
    return "these are ratings or counts: set data.files.positive_threshold to the smallest one that counts as a click"


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("letter case", str.casefold),
    ("white space", lambda value: re.sub(r"\s+", "", value)),
    ("a decimal part", lambda value: re.sub(r"\.0+$", "", value)),
    ("leading zeros", lambda value: re.sub(r"(?<!\d)0+(?=\d)", "", value)),
    ("punctuation", lambda value: re.sub(r"[\W_]+", "", value)),
    ("Unicode form", lambda value: unicodedata.normalize("NFKC", value)),
    ("a prefix", lambda value: re.sub(r"^[^\d]*0*(?=\d)", "", value.casefold())),
    ("a suffix", lambda value: re.sub(r"(?<=\d)\D+$", "", value)),
)


def spelling_difference(unknown: list[str], known: list[str]) -> str | None:
    """In what the ids of two tables differ: the first change of spelling under which most unknown ids are known."""
    some = list(dict.fromkeys(unknown))[:_MAX_IDS]
    for name, spell in _SPELLINGS:
        spelled = {spell(value) for value in known}
        # An id whose spelling is not distinct any more shows nothing.
        if len(spelled) >= _MOST * len(known) and sum(spell(value) in spelled for value in some) > len(some) / 2:
            return name
    return None


def compare_ids(unknown: list[str], known: list[str], table: str, column: str) -> str:
    """Three ids that events name, three ids of the table, and the likely cause why they do not match.

    Args:
        unknown: Ids of events that are not in the table.
        known: Ids of the table.
        table: `items` or `users`.
        column: Field of `data.files.columns`.
    """
    cause = spelling_difference(unknown, known)
    advice = (
        f"they differ in {cause}; write the ids in both tables the same way"
        if cause
        else f"check data.files.columns.{column} and that both tables are of the same export"
    )
    common = [value for value, _ in Counter(unknown).most_common(3)]
    return f"events name {examples(common)}, the {table} table has {examples(known)}: {advice}"
