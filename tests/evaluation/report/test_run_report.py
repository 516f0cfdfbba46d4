import copy
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from coldstart.evaluation.diagnostics.neighbors import ItemCard, ItemNeighbors
from coldstart.evaluation.protocol.summary import Summary
from coldstart.evaluation.report.plots import Chart, gain_bars
from coldstart.evaluation.report.run_report import SLICES, ReportData, headline, render_report, terminal_table
from tests.evaluation.diagnosed import DIAGNOSTICS
from tests.evaluation.rows import scored_rows, summary_of


@pytest.fixture
def page(summary: Summary) -> str:
    return render_report(_report_data(summary))


def _report_data(summary: Summary) -> ReportData:
    card = ItemCard("<script>alert(1)</script>", "data:image/jpeg;base64,AAAA")
    return ReportData(
        name="demo",
        summary=summary,
        charts=[Chart("gain", "Gain", "Bars.", "Fine gains most", gain_bars(summary, SLICES))],
        item_neighbors=[ItemNeighbors(card, [ItemCard("", None, 0.87)])],
        dataset={"items": 4000, "oracle": True},
        lineage={"dataset": "a" * 64},
        versions={"torch": "2.13"},
        command="coldstart submit evaluate --recipe runs/demo/recipe.yaml",
        written_at="2026-01-01 00:00 UTC",
    )


class _Balanced(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_its_images_have_descriptions(page: str) -> None:
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert all(image["alt"] for image in parser.images)
    assert 'aria-label="Fine gains most"' in page


def test_the_page_is_self_contained_and_escapes_user_text(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert not re.search(r"url\((?!#)", page)


def test_the_page_shows_the_metrics(page: str, summary: Summary) -> None:
    assert f"{summary['metrics']['fine']['cold']['gauc_item']:.4f}" in page
    assert headline(summary) in page
    assert "4,000" in page
    assert "0.87" in page


def test_headline_gives_gain_gap_and_item_effect(summary: Summary) -> None:
    text = headline(summary)
    assert text.startswith("The variant fine lifts item GAUC on cold items from 0.5")
    assert "of the gain of the content oracle" in text
    assert "of the gain is item effect (the same for every user)" in text


def test_headline_reports_no_effect_and_harm(summary: Summary) -> None:
    unsure, worse = copy.deepcopy(summary), copy.deepcopy(summary)
    unsure["delta_item_vs_oov"]["fine"]["cold"] = {"gauc": 0.002, "low": -0.01, "high": 0.014}
    worse["delta_item_vs_oov"]["fine"]["cold"] = {"gauc": -0.02, "low": -0.03, "high": -0.01}
    assert "no measurable difference" in headline(unsure)
    assert "harms" in headline(worse)


def test_a_run_without_cold_rows_and_oracles_has_a_report() -> None:
    logits = {"oov": np.zeros(4), "fine": np.arange(4.0)}
    users, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    found = summary_of(scored_rows(users, labels, np.full(4, 5), logits, {"fine": np.zeros(4)}))
    page = render_report(_report_data(found))
    assert "cold GAUC is undefined" in page
    assert "<td>not defined" in page
    assert "content oracle" not in page


def test_terminal_table_leads_with_cold_and_fits_a_terminal(summary: Summary) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(summary))
    text = console.export_text()
    header = next(line for line in text.splitlines() if "variant" in line)
    assert header.split() == [
        "variant",
        "cold",
        "vs",
        "OOV",
        "gap",
        "item:",
        "cold",
        "gap",
        "few",
        "mid",
        "warm",
        "all",
    ]
    fine = next(line for line in text.splitlines() if line.strip().startswith("fine"))
    assert f"{summary['metrics']['fine']['cold']['gauc']:.3f}" in fine
    assert "\u00b1" in fine
    assert max(map(len, text.splitlines())) <= 100


def test_weak_slices_are_listed_or_reported_as_none(summary: Summary) -> None:
    weak_slice = {"conditions": {"image": "missing", "age of the item": "below 1 days"}, "rows": 1234, "users": 56}
    weak_slice |= {"gauc": 0.51, "delta": -0.1, "low": -0.15, "high": -0.05, "p": 1e-9, "p_holm": 1e-7}
    found = {"variant": "release", "overall": 0.61, "tried": 78, "worst": [weak_slice]}
    page = render_report(_report_data({**summary, "weak_slices": found}))
    for text in ("78 slices", "image: <b>missing</b>", "1,234", "\u22120.150 to \u22120.050", "&lt; 0.0001"):
        assert text in page
    page = render_report(_report_data({**summary, "weak_slices": found | {"worst": []}}))
    assert "No slice is measurably worse" in page


def test_comparisons_show_which_effects_a_null_result_excludes(summary: Summary) -> None:
    page = render_report(_report_data(summary))
    entry = next(e for e in summary["comparisons"] if e["metric"] == "gauc_item" and e["mde"] is not None)
    assert f"{entry['variant']} against {entry['against']}" in page
    assert f"<td>{entry['mde']:.3f}</td>" in page


def test_diagnostics_have_paragraphs_tables_and_cards(summary: Summary) -> None:
    gained = {"item_id": "i1", "rows": 40, "observed": 0.9, "before": 0.35, "after": 0.6, "gain": 0.2}
    lost = {**gained, "item_id": "i2", "gain": -0.1}
    diagnosis = DIAGNOSTICS | {"gains": DIAGNOSTICS["gains"] | {"best": [gained], "worst": [lost]}}
    report = replace(
        _report_data({**summary, "diagnostics": diagnosis}),
        findings={"gate": "The gate <is> open."},
        cards={
            "i1": ItemCard("the one that gains", None),
            "i2": ItemCard("the one that loses", "data:image/jpeg;base64,AAAA"),
        },
    )
    page = render_report(report)
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    for text in (
        "70\u00a0% of the 600 cold items",
        "the one that gains",
        "40 rows, 90\u00a0% clicked; predicted by OOV: 35\u00a0%, by fine: 60\u00a0%",
        "\u22120.100",
        "image only",
        "The gate &lt;is&gt; open.",
        "The normalized entropy is 0.80",
    ):
        assert text in page


def test_runs_without_diagnostics_have_a_report(summary: Summary) -> None:
    page = render_report(_report_data({**summary, "diagnostics": None}))
    assert "Items with the" not in page
    assert "Inside the models" not in page
