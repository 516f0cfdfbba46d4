import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from coldstart.data.cleaning import UNKNOWN_ITEM
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation.inspection.charts import draw_charts
from coldstart.evaluation.inspection.dataset_warnings import DatasetWarning, find_warnings
from coldstart.evaluation.inspection.inspection import Inspection, inspect_dataset
from coldstart.evaluation.inspection.inspection_page import facts, headline, render_inspection, terminal_tables
from tests.evaluation.inspection.datasets import START, Event, png, write_dataset

DAY = 86_400
CONTENTS = [Content("one", "a b c", png(40, 30)), Content("two"), Content("three"), Content("four", image=png(9, 60))]
USERS: list[list[Event]] = [
    [
        (1, 1, START, "train"),
        (1, 0, START + 60, "train"),
        (3, 1, START + 5 * DAY, "test"),
        (4, 0, START + 6 * DAY, "test"),
    ],
    [(2, 0, START + 30, "train"), (1, 1, START + 4 * DAY, "valid"), (2, 0, START + 5 * DAY, "test")],
]


class Page(HTMLParser):
    """Fails on tags that are not closed; collects ids and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href") and not str(value).startswith("#"):
                self.loaded.append(str(value))
        if tag in ("script", "link", "iframe"):
            self.loaded.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    rejected = [("events", "<b>u9</b>", UNKNOWN_ITEM)]
    return inspect_dataset(
        Dataset.open(write_dataset(tmp_path / "shop" / "dataset", CONTENTS, USERS, rejected=rejected))
    )


def test_the_page_is_whole_and_loads_nothing(inspection: Inspection) -> None:
    warnings = find_warnings(inspection)
    assert warnings
    text = render_inspection(inspection, warnings, written_at="2026-01-02 03:04 UTC")
    page = Page(text)
    assert page.open == []
    assert page.loaded == []
    assert len(page.ids) == len(set(page.ids))
    assert {"warnings", "splits", "counts", "cold-share", "click-rate", "sizes", "missing", "facts"} <= set(page.ids)
    assert "<b>u9</b>" not in text
    assert "&lt;b&gt;u9&lt;/b&gt;" in text
    assert "2026-01-02 03:04 UTC" in text
    for one in warnings:
        assert one.what[1:] in text
    assert "None of the checks found anything" not in text
    assert "None of the checks found anything" in render_inspection(inspection, [], written_at="now")


@pytest.mark.filterwarnings("error")
def test_a_dataset_of_one_event_has_a_page(tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "dataset", [Content(image=b"not an image")], [[(1, 1, START, "train")]])
    inspection = inspect_dataset(Dataset.open(written))
    text = render_inspection(inspection, find_warnings(inspection), written_at="now")
    page = Page(text)
    assert page.open == []
    assert "cold-share" not in page.ids
    assert "1 unreadable" in text
    assert "All rows of the tables are in it" in text
    assert "no test row is about a cold item" in text.replace("No test", "no test")


def test_the_headline_counts_what_will_hurt(inspection: Inspection) -> None:
    one = DatasetWarning("a", "b", "c", "d")
    size = "7 events of 2 users on 4 items"
    assert headline(inspection, []) == f"{size}: nothing is known that will hurt."
    assert headline(inspection, [one]) == f"{size}: one thing will hurt."
    assert headline(inspection, [one, one]) == f"{size}: 2 things will hurt."


def test_charts_show_the_numbers(inspection: Inspection) -> None:
    charts = {chart.name: chart for chart in draw_charts(inspection)}
    assert list(charts) == ["counts", "cold-share", "click-rate", "sizes"]
    items, users = charts["counts"].figure.axes
    assert [bar.get_height() for bar in items.patches] == [2, 2]
    assert [bar.get_height() for bar in users.patches] == [0, 0, 2]
    (cold,) = charts["cold-share"].figure.axes
    np.testing.assert_allclose(cold.lines[0].get_ydata(), [0.5, 1.0])
    assert charts["cold-share"].title == "Cold share of the test events per hour"
    assert "50% in the first, 100% in the last, 67% of all" in charts["cold-share"].alt
    (rate,) = charts["click-rate"].figure.axes
    assert charts["click-rate"].title == "Click rate per day"
    assert [line.get_ydata().tolist() for line in rate.lines] == [[pytest.approx(1 / 3)], [1.0], [0.5, 0.0]]
    labels = [text.get_text() for text in rate.get_legend().get_texts()]
    assert labels == ["train (33.3%)", "valid (100.0%)", "test (33.3%)"]
    byte, side, words = charts["sizes"].figure.axes
    assert sum(bar.get_height() for bar in side.patches) == 2
    assert "longer side of an image, pixels 50" in charts["sizes"].alt
    assert sum(bar.get_height() for bar in words.patches) == 4
    assert sum(bar.get_height() for bar in byte.patches) in (0, 2)


def test_the_terminal_shows_facts_splits_missing_content_and_reasons(inspection: Inspection) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(*terminal_tables(inspection))
    text = re.sub("[ \u00a0]+", " ", console.export_text())
    assert "items 4; 2 (50.0 %) are cold" in text
    assert "train 3 1 33.3 % 2023-11-14 00:00 2023-11-14 00:01" in text
    assert "image 2 (50 %) 1 (50 %) 1 (50 %)" in text
    assert f"events 1 {UNKNOWN_ITEM} <b>u9</b>" in text


def test_facts_name_the_numbers(inspection: Inspection) -> None:
    found = {name: value.replace("\u00a0", " ") for name, value in facts(inspection).items()}
    assert found["users"] == "2 with 3.5 events (median); 0 have one"
    assert found["train events per item"].startswith(
        "median 1.5 of the items that have any; shares of all items: 0: 50 %"
    )
    assert found["cold test rows"] == (
        "2 (66.7 %) of the test rows; 1 of 1 users have both classes in them; smallest gain in GAUC that they can "
        "show: 1.401"
    )
    assert found["users with one class"].startswith("1 (50.0 %) in the test rows, 0 (0.0 %) in the cold ones")
    assert found["test rows without history"] == "0 (0.0 %)"
    assert "images: 2 PNG" in found["contents of 4 sampled items"]


def test_drawn_and_excluded_events_are_named(tmp_path: Path) -> None:
    metadata = {"drawn_negatives": 3, "excluded_events": 1200}
    written = write_dataset(tmp_path / "dataset", CONTENTS, USERS, metadata=metadata)
    shown = facts(inspect_dataset(Dataset.open(written)))["events"]
    assert shown == "7; 3 of them are drawn negatives; 1,200 more are excluded by the split"
