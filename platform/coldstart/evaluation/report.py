"""The report: one self-contained HTML page, and the same figures as a table for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from coldstart.evaluation.neighbours import Neighbourhood
from coldstart.evaluation.plots import COLOURS, inline_svg
from coldstart.evaluation.slices import meaning
from coldstart.evaluation.summary import Summary
from coldstart.evaluation.variants import BASELINE, MEANINGS, ORACLES

SLICES = ("cold", "all", "few", "mid", "warm")
"""Slices in the order in which a reader needs them."""
UNDEFINED = "n/a"
GAP = "\u00a0"
"""A space at which no line breaks, before a per cent sign."""


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


def headline(summary: Summary) -> str:
    """What the fine proxy is worth on cold items, in one or two sentences."""
    delta = summary["delta_item_vs_oov"].get("fine", {}).get("cold", {})
    if delta.get("gauc") is None:
        return "There are no cold rows with clicked and unclicked items of one user, so cold GAUC is not defined."
    before, after = (summary["metrics"][name]["cold"]["gauc_item"] for name in (BASELINE, "fine"))
    moved = f"from {before:.3f} to {after:.3f} ({_signed(delta['gauc'])}, {_span(summary)} {_range(delta)})"
    if delta["low"] <= 0 <= delta["high"]:
        return f"Fine proxies make no measurable difference on cold items: item GAUC goes {moved}."
    if delta["gauc"] < 0:
        return f"Fine proxies harm cold items: item GAUC falls {moved}."
    gap = summary["gap_closed_item"].get("fine", {})
    share = summary["appeal_share"].get("fine", {})
    closed, appeal = gap.get("value"), share.get("share")
    parts = [f"Fine proxies lift item GAUC on cold items {moved}"]
    if closed is not None:
        parts.append(f", which is {_percent(closed)} of what a perfect reading of the content could give")
    parts.append(".")
    if appeal is not None:
        parts.append(
            f" {_percent(appeal)} of the gain is appeal, the same for every user; {_percent(1 - appeal)} is taste."
        )
    return "".join(parts)


def render(evidence: Evidence) -> str:
    """The page. It needs no network and no script."""
    environment = Environment(
        loader=PackageLoader("coldstart.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "signed": _signed, "percent": _percent, "count": _count}
    summary = evidence.summary
    return environment.get_template("report.html.j2").render(
        evidence=evidence,
        summary=summary,
        headline=headline(summary),
        slices={name: meaning(name) for name in SLICES},
        variants={name: MEANINGS.get(name, "") for name in summary["metrics"]},
        colours=COLOURS,
        drawings={chart.name: Markup(inline_svg(chart.figure, chart.name)) for chart in evidence.charts},
        span=_span(summary),
        ceiling=summary["ceiling"] is not None,
    )


def terminal_table(summary: Summary) -> Table:
    """GAUC on cold rows with its difference to OOV; item GAUC (what the slot adds) on every slice; gaps closed."""
    table = Table(
        title=f"GAUC on cold items ({_span(summary)} of the difference to OOV), and item GAUC by slice",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    gaps = {"gauc": summary["gap_closed"], "gauc_item": summary["gap_closed_item"]}
    gap_title = ["gap"] if gaps["gauc"] else []
    for title in ("variant", "cold", "vs OOV", *gap_title, "item: cold", *gap_title, *SLICES[1:]):
        table.add_column(title, justify="left" if title == "variant" else "right", no_wrap=True)
    for variant, by_slice in summary["metrics"].items():

        def closed(metric: str, variant: str = variant) -> list[str]:
            found = gaps[metric].get(variant)
            return [_percent(found["value"]) if found else ""] if gap_title else []

        shown = [_figure(by_slice["cold"]["gauc"], 3), _terminal_delta(summary, variant), *closed("gauc")]
        cold, *others = (_figure(by_slice[name]["gauc_item"], 3) for name in SLICES)
        style = "bold" if variant == "fine" else "dim" if variant in ORACLES else None
        table.add_row(variant, *shown, cold, *closed("gauc_item"), *others, style=style)
    return table


def _terminal_delta(summary: Summary, variant: str) -> str:
    delta = summary["delta_vs_oov"].get(variant, {}).get("cold")
    if not delta or delta["low"] is None:
        return ""
    colour = "green" if delta["low"] > 0 else "red" if delta["high"] < 0 else "dim"
    half = (delta["high"] - delta["low"]) / 2
    return f"[{colour}]{delta['gauc']:+.3f} \u00b1{half:.3f}[/]"


def _span(summary: Summary) -> str:
    return f"{summary['confidence'] * 100:g}{GAP}% interval"


def _range(delta: Mapping[str, Any]) -> str:
    return f"{_signed(delta['low'])} to {_signed(delta['high'])}"


def _figure(value: float | None, digits: int = 4) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return UNDEFINED if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value * 100:.0f}{GAP}%".replace("-", "\u2212")


def _count(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
