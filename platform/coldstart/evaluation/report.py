"""The report: one self-contained HTML page, and the same figures as a table for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from coldstart.evaluation.findings import findings
from coldstart.evaluation.neighbours import Card, Neighbourhood
from coldstart.evaluation.pages import GAP, figure, p_value, page, percent, signed
from coldstart.evaluation.plots import inline_svg
from coldstart.evaluation.slices import meaning
from coldstart.evaluation.summary import Summary
from coldstart.evaluation.variants import BASELINE, MEANINGS, ORACLES

SLICES = ("cold", "fresh", "few", "mid", "warm", "all")
"""Slices in the order in which a reader needs them."""


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        name: File name stem and id prefix.
        title: Heading.
        caption: What to see in it.
        alt: What a reader who cannot see it should know.
        figure: The drawing.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Evidence:
    """What a report is written from.

    Attributes:
        name: Of the run.
        summary: From `summarise`.
        charts: In order.
        neighbourhoods: Sample cold items and the mature items they land next to.
        dataset: Facts -> values.
        lineage: Artifact kind -> fingerprint.
        versions: Package -> version.
        command: What makes this report again.
        written_at: Date and time, for people.
        cards: Item id -> the item as it is shown, of those that gain or lose most.
    """

    name: str
    summary: Summary
    charts: Sequence[Chart]
    neighbourhoods: Sequence[Neighbourhood]
    dataset: Mapping[str, Any]
    lineage: Mapping[str, str]
    versions: Mapping[str, str]
    command: str
    written_at: str
    cards: Mapping[str, Card] = field(default_factory=dict)


def headline(summary: Summary) -> str:
    """What the fine proxy is worth on cold items, in one or two sentences."""
    delta = summary["delta_item_vs_oov"].get("fine", {}).get("cold", {})
    if delta.get("gauc") is None:
        return "There are no cold rows with clicked and unclicked items of one user, so cold GAUC is not defined."
    before, after = (summary["metrics"][name]["cold"]["gauc_item"] for name in (BASELINE, "fine"))
    moved = f"from {before:.3f} to {after:.3f} ({signed(delta['gauc'])}, {_span(summary)} {_range(delta)})"
    if delta["low"] <= 0 <= delta["high"]:
        return f"Fine proxies make no measurable difference on cold items: item GAUC goes {moved}."
    if delta["gauc"] < 0:
        return f"Fine proxies harm cold items: item GAUC falls {moved}."
    gap = summary["gap_closed_item"].get("fine", {})
    share = summary["appeal_share"].get("fine", {})
    closed, appeal = gap.get("value"), share.get("share")
    parts = [f"Fine proxies lift item GAUC on cold items {moved}"]
    if closed is not None:
        parts.append(f", which is {percent(closed)} of what a perfect reading of the content could give")
    parts.append(".")
    if appeal is not None:
        parts.append(
            f" {percent(appeal)} of the gain is appeal, the same for every user; {percent(1 - appeal)} is taste."
        )
    return "".join(parts)


def render(evidence: Evidence) -> str:
    """The page. It needs no network and no script."""
    summary = evidence.summary
    return page(
        "report.html.j2",
        evidence=evidence,
        summary=summary,
        headline=headline(summary),
        slices={name: meaning(name) for name in SLICES},
        variants={name: MEANINGS.get(name, "") for name in summary["metrics"]},
        drawings={chart.name: Markup(inline_svg(chart.figure, chart.name)) for chart in evidence.charts},
        span=_span(summary),
        ceiling=summary["ceiling"] is not None,
        confidence=summary["confidence"],
        shown_comparisons=_shown(summary["comparisons"]),
        segments=summary.get("segments"),
        findings=findings(summary),
        diagnosis=summary.get("diagnosis") or {},
    )


def render_seeds(name: str, about: Summary, pages: Mapping[int, Path]) -> str:
    """The page of several seeds.

    Args:
        name: Of the run.
        about: From `over_seeds`.
        pages: Seed -> its own report, relative to this page.
    """
    return page(
        "seeds.html.j2",
        name=name,
        about=about,
        pages=pages,
        slices={slice_name: meaning(slice_name) for slice_name in SLICES},
        shown_comparisons=_shown(about["comparisons"]),
        span=_span(about),
    )


def render_side_by_side(found: Mapping[str, Any]) -> str:
    """The page of two runs, from `side_by_side.compare`."""
    return page(
        "side_by_side.html.j2",
        found=found,
        rows=_side_by_side(found),
        slices={name: meaning(name) for name in SLICES},
        span=_span(found),
    )


def side_by_side_table(found: Mapping[str, Any]) -> Table:
    """Item GAUC of two runs on cold and on all rows, from `side_by_side.compare`."""
    names = [run["name"] for run in found["runs"]]
    table = Table(title=f"item GAUC of {names[0]} and {names[1]}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in ("slice", "variant", "first", "second", "change", _span(found), "p (Holm)"):
        table.add_column(title, justify="left" if title in ("slice", "variant") else "right", no_wrap=True)
    for row in _side_by_side(found):
        if row["slice"] in ("cold", "all"):
            gained = row["gained"]
            told = [signed(gained["delta"]), _range(gained), p_value(gained["p_holm"])] if gained else ["", "", ""]
            table.add_row(row["slice"], row["variant"], *(figure(value, 3) for value in row["values"]), *told)
    return table


def _side_by_side(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of slice, variant, values and, where runs are paired, what was gained, of item GAUC."""
    gained = {(e["slice"], e["variant"]): e for e in found["differences"] if e["metric"] == "gauc_item"}
    shown = [entry for entry in found["figures"] if entry["metric"] == "gauc_item"]
    rows = [{**entry, "gained": gained.get((entry["slice"], entry["variant"]))} for entry in shown]
    return sorted(rows, key=lambda row: SLICES.index(row["slice"]))


def _shown(comparisons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What pages list: item GAUC, where the scores of the two differ at all."""
    shown = [entry for entry in comparisons if entry["metric"] == "gauc_item" and entry["p"] is not None]
    return sorted(shown, key=lambda entry: SLICES.index(entry["slice"]))


def terminal_table(summary: Summary) -> Table:
    """GAUC on cold rows with its difference to OOV; item GAUC (what the slot adds) on every slice; gaps closed."""
    others = [name for name in SLICES if name not in ("cold", "fresh")]
    table = Table(
        title=f"GAUC on cold items ({_span(summary)} of the difference to OOV), and item GAUC by slice",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    gaps = {"gauc": summary["gap_closed"], "gauc_item": summary["gap_closed_item"]}
    gap_title = ["gap"] if gaps["gauc"] else []
    for title in ("variant", "cold", "vs OOV", *gap_title, "item: cold", *gap_title, *others):
        table.add_column(title, justify="left" if title == "variant" else "right", no_wrap=True)
    for variant, by_slice in summary["metrics"].items():

        def closed(metric: str, variant: str = variant) -> list[str]:
            found = gaps[metric].get(variant)
            return [percent(found["value"]) if found else ""] if gap_title else []

        shown = [figure(by_slice["cold"]["gauc"], 3), _terminal_delta(summary, variant), *closed("gauc")]
        cold, *rest = (figure(by_slice[name]["gauc_item"], 3) for name in ("cold", *others))
        style = "bold" if variant == "fine" else "dim" if variant in ORACLES else None
        table.add_row(variant, *shown, cold, *closed("gauc_item"), *rest, style=style)
    return table


def seeds_table(about: Summary) -> Table:
    """Item GAUC on cold rows over seeds: mean, spread between seeds, and the difference to OOV with its interval."""
    table = Table(
        title=f"Item GAUC on cold items over {len(about['seeds'])} seeds ({_span(about)} over users and seeds)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for title in ("variant", "mean", "spread", "vs OOV", "interval", "p (Holm)"):
        table.add_column(title, justify="left" if title == "variant" else "right", no_wrap=True)
    differences = {
        found["variant"]: found
        for found in about["comparisons"]
        if (found["against"], found["slice"], found["metric"]) == (BASELINE, "cold", "gauc_item")
    }
    for variant, by_slice in about["metrics"].items():
        cold, found = by_slice["cold"]["gauc_item"], differences.get(variant)
        against = [signed(found["delta"]), _range(found), p_value(found["p_holm"])] if found else [""] * 3
        style = "bold" if variant == "fine" else "dim" if variant in ORACLES else None
        table.add_row(variant, figure(cold["value"], 3), figure(cold["spread"], 3), *against, style=style)
    return table


def _terminal_delta(summary: Summary, variant: str) -> str:
    delta = summary["delta_vs_oov"].get(variant, {}).get("cold")
    if not delta or delta["low"] is None:
        return ""
    colour = "green" if delta["low"] > 0 else "red" if delta["high"] < 0 else "dim"
    half = (delta["high"] - delta["low"]) / 2
    return f"[{colour}]{delta['gauc']:+.3f} \u00b1{half:.3f}[/]"


def _span(summary: Mapping[str, Any]) -> str:
    return f"{summary['confidence'] * 100:g}{GAP}% interval"


def _range(delta: Mapping[str, Any]) -> str:
    return f"{signed(delta['low'])} to {signed(delta['high'])}"
