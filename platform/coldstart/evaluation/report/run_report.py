"""The report as a self-contained HTML page, and tables for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table

from coldstart.evaluation.diagnostics.neighbors import ItemCard, ItemNeighbors
from coldstart.evaluation.protocol.slices import describe
from coldstart.evaluation.protocol.summary import Summary
from coldstart.evaluation.protocol.variants import BASELINE, ORACLES, VARIANTS
from coldstart.evaluation.report.html_pages import GAP, figure, p_value, page, percent, signed
from coldstart.evaluation.report.plots import Chart, inline_svg
from coldstart.evaluation.report.text import report_text

SLICES = ("cold", "fresh", "few", "mid", "warm", "all")
"""Slices in the order of the report."""


@dataclass(frozen=True)
class ReportData:
    """The content of a report.

    Attributes:
        name: Of the run.
        summary: From `build_summary`.
        charts: In order.
        item_neighbors: Sampled cold items with their nearest mature items.
        dataset: Facts -> values.
        lineage: Artifact kind -> fingerprint.
        versions: Package -> version.
        command: Reproduces this report.
        written_at: Date and time, for people.
        cards: Item id -> card, of the items with the highest and the lowest gains.
        findings: Name -> paragraph, of measurements that only this method has.
    """

    name: str
    summary: Summary
    charts: Sequence[Chart]
    item_neighbors: Sequence[ItemNeighbors]
    dataset: Mapping[str, Any]
    lineage: Mapping[str, str]
    versions: Mapping[str, str]
    command: str
    written_at: str
    cards: Mapping[str, ItemCard] = field(default_factory=dict)
    findings: Mapping[str, str] = field(default_factory=dict)


def headline(summary: Summary) -> str:
    """The gain of the method on cold items, in one or two sentences."""
    name = summary["headline"]
    delta = summary["delta_item_vs_oov"].get(name, {}).get("cold", {})
    if delta.get("gauc") is None:
        return "No user has both clicked and skipped cold items, so cold GAUC is undefined."
    before, after = (summary["metrics"][one]["cold"]["gauc_item"] for one in (BASELINE, name))
    change = f"from {before:.3f} to {after:.3f} ({signed(delta['gauc'])}, {_span(summary)} {_range(delta)})"
    if delta["low"] <= 0 <= delta["high"]:
        return f"The variant {name} makes no measurable difference on cold items: item GAUC changes {change}."
    if delta["gauc"] < 0:
        return f"The variant {name} harms cold items: item GAUC falls {change}."
    gap = summary["gap_closed_item"].get(name, {})
    share = summary["item_effect_share"].get(name, {})
    closed, item_effect = gap.get("value"), share.get("share")
    parts = [f"The variant {name} lifts item GAUC on cold items {change}"]
    if closed is not None:
        parts.append(f", which is {percent(closed)} of the gain of the {summary['upper_bound'].replace('_', ' ')}")
    parts.append(".")
    if item_effect is not None:
        parts.append(
            f" {percent(item_effect)} of the gain is item effect (the same for every user), "
            f"{percent(1 - item_effect)} is personalization."
        )
    return "".join(parts)


def render_report(report: ReportData) -> str:
    """The HTML page. It needs no network and no script."""
    summary = report.summary
    return page(
        "report/report.html.j2",
        report=report,
        summary=summary,
        headline=headline(summary),
        slices={name: describe(name) for name in SLICES},
        variants={name: VARIANTS[name].description for name in summary["metrics"]},
        drawings={chart.name: Markup(inline_svg(chart.figure, chart.name)) for chart in report.charts},
        span=_span(summary),
        upper_bound=summary["upper_bound"] is not None,
        confidence=summary["confidence"],
        shown_comparisons=_shown(summary["comparisons"]),
        weak_slices=summary.get("weak_slices"),
        texts=report_text(summary),
        diagnostics=summary.get("diagnostics") or {},
    )


def render_seeds(name: str, summary: Summary, pages: Mapping[int, Path]) -> str:
    """The HTML page of several seeds.

    Args:
        name: Of the run.
        summary: From `aggregate_seeds`.
        pages: Seed -> path of its report, relative to this page.
    """
    return page(
        "compare/seed_aggregation.html.j2",
        name=name,
        summary=summary,
        pages=pages,
        slices={slice_name: describe(slice_name) for slice_name in SLICES},
        shown_comparisons=_shown(summary["comparisons"]),
        span=_span(summary),
    )


def render_run_comparison(found: Mapping[str, Any]) -> str:
    """The HTML page of two runs, from `compare_runs`."""
    return page(
        "compare/compare_runs.html.j2",
        found=found,
        rows=_comparison_rows(found),
        slices={name: describe(name) for name in SLICES},
        span=_span(found),
    )


def run_comparison_table(found: Mapping[str, Any]) -> Table:
    """Item GAUC of two runs on cold and on all rows, from `compare_runs`."""
    names = [run["name"] for run in found["runs"]]
    table = Table(title=f"item GAUC of {names[0]} and {names[1]}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in ("slice", "variant", "first", "second", "change", _span(found), "p (Holm)"):
        table.add_column(title, justify="left" if title in ("slice", "variant") else "right", no_wrap=True)
    for row in _comparison_rows(found):
        if row["slice"] in ("cold", "all"):
            difference = row["difference"]
            cells = (
                [signed(difference["delta"]), _range(difference), p_value(difference["p_holm"])]
                if difference
                else ["", "", ""]
            )
            table.add_row(row["slice"], row["variant"], *(figure(value, 3) for value in row["values"]), *cells)
    return table


def _comparison_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Item GAUC as rows of slice, variant, values and, if the runs are paired, the difference."""
    differences = {(e["slice"], e["variant"]): e for e in found["differences"] if e["metric"] == "gauc_item"}
    shown = [entry for entry in found["metrics"] if entry["metric"] == "gauc_item"]
    rows = [{**entry, "difference": differences.get((entry["slice"], entry["variant"]))} for entry in shown]
    return sorted(rows, key=lambda row: SLICES.index(row["slice"]))


def _shown(comparisons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The comparisons that pages list: item GAUC of variants whose scores differ."""
    shown = [entry for entry in comparisons if entry["metric"] == "gauc_item" and entry["p"] is not None]
    return sorted(shown, key=lambda entry: SLICES.index(entry["slice"]))


def terminal_table(summary: Summary) -> Table:
    """GAUC on cold rows with its difference to OOV; item GAUC on every slice; gaps closed."""
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
        style = "bold" if variant == summary["headline"] else "dim" if variant in ORACLES else None
        table.add_row(variant, *shown, cold, *closed("gauc_item"), *rest, style=style)
    return table


def seeds_table(summary: Summary) -> Table:
    """Item GAUC on cold rows over seeds: mean, spread between seeds, and the difference to OOV with its interval."""
    table = Table(
        title=f"Item GAUC on cold items over {len(summary['seeds'])} seeds ({_span(summary)} over users and seeds)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for title in ("variant", "mean", "spread", "vs OOV", "interval", "p (Holm)"):
        table.add_column(title, justify="left" if title == "variant" else "right", no_wrap=True)
    differences = {
        found["variant"]: found
        for found in summary["comparisons"]
        if (found["against"], found["slice"], found["metric"]) == (BASELINE, "cold", "gauc_item")
    }
    for variant, by_slice in summary["metrics"].items():
        cold, found = by_slice["cold"]["gauc_item"], differences.get(variant)
        against = [signed(found["delta"]), _range(found), p_value(found["p_holm"])] if found else [""] * 3
        style = "bold" if variant == summary["headline"] else "dim" if variant in ORACLES else None
        table.add_row(variant, figure(cold["value"], 3), figure(cold["spread"], 3), *against, style=style)
    return table


def _terminal_delta(summary: Summary, variant: str) -> str:
    delta = summary["delta_vs_oov"].get(variant, {}).get("cold")
    if not delta or delta["low"] is None:
        return ""
    color = "green" if delta["low"] > 0 else "red" if delta["high"] < 0 else "dim"
    half = (delta["high"] - delta["low"]) / 2
    return f"[{color}]{delta['gauc']:+.3f} \u00b1{half:.3f}[/]"


def _span(summary: Mapping[str, Any]) -> str:
    return f"{summary['confidence'] * 100:g}{GAP}% interval"


def _range(delta: Mapping[str, Any]) -> str:
    return f"{signed(delta['low'])} to {signed(delta['high'])}"
