import copy
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from coldstart.evaluation.neighbours import Card, Neighbourhood
from coldstart.evaluation.plots import gain_bars
from coldstart.evaluation.report import SLICES, Chart, Evidence, headline, render, terminal_table
from coldstart.evaluation.summary import Summary
from tests.evaluation.diagnosed import DIAGNOSIS
from tests.evaluation.rows import scored_rows, summary_of


@pytest.fixture
def page(summary: Summary) -> str:
    return render(_evidence(summary))


def _evidence(summary: Summary) -> Evidence:
    card = Card("<script>alert(1)</script>", "data:image/jpeg;base64,AAAA")
    return Evidence(
        name="demo",
        summary=summary,
        charts=[Chart("gain", "Gain", "Bars.", "Fine gains most", gain_bars(summary, SLICES))],
        neighbourhoods=[Neighbourhood(card, [Card("", None, 0.87)])],
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


def test_the_page_is_well_formed_and_its_pictures_are_described(page: str) -> None:
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert all(image["alt"] for image in parser.images)
    assert 'aria-label="Fine gains most"' in page


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_users_wrote(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert not re.search(r"url\((?!#)", page)


def test_the_page_shows_the_figures(page: str, summary: Summary) -> None:
    assert f"{summary['metrics']['fine']['cold']['gauc_item']:.4f}" in page
    assert headline(summary) in page
    assert "4,000" in page
    assert "0.87" in page


def test_headline_tells_gain_gap_and_appeal(summary: Summary) -> None:
    text = headline(summary)
    assert text.startswith("Fine proxies lift item GAUC on cold items from 0.5")
    assert "of what a perfect reading of the content could give" in text
    assert "of the gain is appeal" in text


def test_headline_does_not_praise_what_is_not_there(summary: Summary) -> None:
    unsure, worse = copy.deepcopy(summary), copy.deepcopy(summary)
    unsure["delta_item_vs_oov"]["fine"]["cold"] = {"gauc": 0.002, "low": -0.01, "high": 0.014}
    worse["delta_item_vs_oov"]["fine"]["cold"] = {"gauc": -0.02, "low": -0.03, "high": -0.01}
    assert "no measurable difference" in headline(unsure)
    assert "harm" in headline(worse)


def test_a_run_without_cold_rows_and_oracles_still_has_a_report() -> None:
    logits = {"oov": np.zeros(4), "fine": np.arange(4.0)}
    users, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    found = summary_of(scored_rows(users, labels, np.full(4, 5), logits, {"fine": np.zeros(4)}))
    page = render(_evidence(found))
    assert "cold GAUC is not defined" in page
    assert "<td>not defined" in page
    assert "perfect" not in page


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


def test_weak_segments_are_listed_and_their_absence_is_said(summary: Summary) -> None:
    segment = {"conditions": {"picture": "missing", "age of the item": "below 1 days"}, "rows": 1234, "users": 56}
    segment |= {"gauc": 0.51, "delta": -0.1, "low": -0.15, "high": -0.05, "p": 1e-9, "p_holm": 1e-7}
    found = {"variant": "release", "overall": 0.61, "tried": 78, "worst": [segment]}
    page = render(_evidence({**summary, "segments": found}))
    for words in ("78 segments", "picture: <b>missing</b>", "1,234", "\u22120.150 to \u22120.050", "&lt; 0.0001"):
        assert words in page
    page = render(_evidence({**summary, "segments": found | {"worst": []}}))
    assert "No segment is measurably worse" in page


def test_comparisons_say_what_a_null_result_excludes(summary: Summary) -> None:
    page = render(_evidence(summary))
    entry = next(e for e in summary["comparisons"] if e["metric"] == "gauc_item" and e["mde"] is not None)
    assert f"{entry['variant']} against {entry['against']}" in page
    assert f"<td>{entry['mde']:.3f}</td>" in page


def test_the_diagnosis_is_told_in_sentences_beside_its_tables_and_pictures(summary: Summary) -> None:
    gained = {"item_id": "i1", "rows": 40, "observed": 0.9, "before": 0.35, "after": 0.6, "gain": 0.2}
    lost = {**gained, "item_id": "i2", "gain": -0.1}
    diagnosis = DIAGNOSIS | {"gains": DIAGNOSIS["gains"] | {"most": [gained], "least": [lost]}}
    evidence = replace(
        _evidence({**summary, "diagnosis": diagnosis}),
        cards={"i1": Card("the one that gains", None), "i2": Card("the one that loses", "data:image/jpeg;base64,AAAA")},
    )
    page = render(evidence)
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    for words in (
        "70\u00a0% of the 600 cold items",
        "the one that gains",
        "40 rows, 90\u00a0% clicked; OOV said 35\u00a0%, fine 60\u00a0%",
        "\u22120.100",
        "picture only",
        "Its evenness is 0.80",
    ):
        assert words in page


def test_runs_without_a_diagnosis_still_have_a_report(summary: Summary) -> None:
    page = render(_evidence({**summary, "diagnosis": None}))
    assert "Who gains" not in page
    assert "Inside adaptor" not in page
