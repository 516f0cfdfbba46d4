import datetime as dt
import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest

from coldstart.data.value_forms import compare_ids, examples, label_form, spelling_difference, time_form

DAYS = [dt.date(1999, 3, 1) + dt.timedelta(days=37 * n) for n in range(250)]
SECONDS = np.array([(day - dt.date(1970, 1, 1)).days * 86_400 + 4321 for day in DAYS], float)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (SECONDS * 1e3, "Unix milliseconds: divide them by 1000"),
        (SECONDS * 1e6, "Unix microseconds: divide them by 1000000"),
        (SECONDS * 1e9, "Unix nanoseconds: divide them by 1000000000"),
        (np.array([float(f"{day:%Y%m%d}") for day in DAYS]), "dates written as numbers (YYYYMMDD)"),
        (np.array([float(f"{day:%Y%m%d}23") for day in DAYS]), "dates written as numbers (YYYYMMDDhh)"),
        (np.array([float(f"{day:%Y%m%d}2359") for day in DAYS]), "dates written as numbers (YYYYMMDDhhmm)"),
        (np.array([float(f"{day:%Y%m%d}235959") for day in DAYS]), "dates written as numbers (YYYYMMDDhhmmss)"),
        (np.array([float(f"{day:%Y%m}") for day in DAYS]), "months written as numbers (YYYYMM)"),
        (np.array([float(day.year) for day in DAYS]), "years"),
        (SECONDS / 86_400 + 25_569, "days of a spreadsheet"),
        (SECONDS // 86_400, "days since 1970"),
    ],
)
def test_forms_of_times_are_recognized(values: np.ndarray, form: str) -> None:
    found = time_form(values)
    assert found is not None
    assert found.startswith(form)
    mixed = values.copy()
    mixed[: len(mixed) // 20] = 5.0
    assert time_form(mixed) == found
    mixed[: len(mixed) // 5] = 5.0
    assert time_form(mixed) is None


@pytest.mark.parametrize(
    "values",
    [SECONDS, np.arange(60_000.0), np.arange(0, 10_000_000, 997.0), np.array([]), np.array([np.nan] * 9)],
    ids=["seconds", "seconds of a day", "seconds of months", "none", "unreadable"],
)
def test_seconds_since_any_start_have_no_other_form(values: np.ndarray) -> None:
    assert time_form(values) is None


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (["click", "view"], "words"),
        (["True", "False"], "words"),
        (["yes", "no", "2"], "words"),
        (["-1", "-1.0"], "signs.*threshold: 1,"),
        (["0.2", "0.9"], "fractions"),
        (["0.2", "1.5"], "ratings or counts"),
        (["-1", "5"], "ratings or counts"),
        (["3", "x", "4"], "ratings or counts"),
    ],
)
def test_forms_of_labels_are_recognized(values: list[str], advice: str) -> None:
    assert re.search(advice, label_form(values))


KNOWN = [f"AB-{n:04}" for n in range(50)]


@pytest.mark.parametrize(
    ("spell", "cause"),
    [
        (lambda one: one.lower(), "letter case"),
        (lambda one: one.replace("-", " - "), "white space"),
        (lambda one: f"{one}.0", "a decimal part"),
        (lambda one: f"AB-{int(one[3:])}", "leading zeros"),
        (lambda one: one.replace("-", "_"), "punctuation"),
        (lambda one: one.replace("A", "\uff21"), "Unicode form"),
        (lambda one: f"sku:{one[3:]}", "a prefix"),
        (lambda one: one[3:], "a prefix"),
        (lambda one: f"{one}@shop", "a suffix"),
    ],
)
def test_the_difference_of_two_spellings_is_named(spell: Callable[[str], str], cause: str) -> None:
    spelled = [spell(one) for one in KNOWN]
    assert spelling_difference(spelled, KNOWN) == cause
    assert spelling_difference(KNOWN, spelled) == cause
    foreign = [f"ZZ-9{n:05}" for n in range(50)]
    assert spelling_difference(spelled[:20] + foreign, KNOWN) is None


def test_ids_that_differ_in_that_spelling_only_do_not_count() -> None:
    known = ["a1", "A1", "b1", "B1"]
    assert spelling_difference(["a2", "c1"], known) is None
    assert spelling_difference(["1", "2"], ["x1", "y1", "z1", "x2", "y2", "z2"]) is None


def test_three_ids_of_each_table_are_shown() -> None:
    message = compare_ids(
        ["ab-1", "ab-2", "ab-2", "ab-3", "ab-4"], ["AB-1", "AB-2", "AB-3", "AB-4"], "items", "item_id"
    )
    assert "events name 'ab-2', 'ab-1', 'ab-3', the items table has 'AB-1', 'AB-2', 'AB-3'" in message
    assert "letter case" in message
    assert "data.files.columns.item_id" in compare_ids(["x"], ["y"], "items", "item_id")


def test_examples_are_distinct_few_and_short() -> None:
    assert examples(["a", "a", "b", "c", "d"]) == "'a', 'b', 'c'"
    assert examples(n // 2 for n in itertools.count()) == "'0', '1', '2'"  # no more are looked at
    assert examples(["x" * 100]) == f"'{'x' * 57}...'"
