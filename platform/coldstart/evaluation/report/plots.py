"""Charts of the report. Inlined into a page, they take its light or dark colors."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from coldstart.evaluation.protocol.variants import BASELINE, VARIANTS
from coldstart.metrics.clicks import Reliability

INK, FAINT, PAPER = "#20262e", "#d5dae1", "#fdfdfc"
PAGE = {INK: "var(--ink)", FAINT: "var(--rule)", PAPER: "var(--paper)"}
COLORS = {name: info.color for name, info in VARIANTS.items()}
ACCENT = "#e2683c"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "coldstart",
}


@dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        name: File name stem and id prefix.
        title: Heading.
        caption: Explains the chart.
        alt: Text alternative.
        figure: The chart.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def gain_bars(summary: Mapping[str, Any], slices: Sequence[str]) -> Figure:
    """Item GAUC above OOV per slice and variant, with the paired interval."""
    deltas = summary["delta_item_vs_oov"]
    names = list(reversed(deltas))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.8 + 0.3 * len(names)), layout=ConstrainedLayoutEngine(w_pad=0.1))
        axes = figure.subplots(1, len(slices), sharey=True, squeeze=False)[0]
        for place, (axis, slice_name) in enumerate(zip(axes, slices, strict=True)):
            for y, name in enumerate(names):
                found = deltas[name][slice_name]
                if found["gauc"] is None:
                    axis.annotate("not defined", (0, y), va="center", fontsize=7)
                    continue
                axis.barh(y, found["gauc"], color=COLORS.get(name, FAINT), height=0.62)
                if found["low"] is not None:
                    axis.plot([found["low"], found["high"]], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
            axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_title(slice_name)
            axis.grid(axis="y", visible=False)
            axis.tick_params(length=0)
            axis.locator_params(axis="x", nbins=4)
            if place == 0:
                axis.set_yticks(range(len(names)), names)
        figure.supxlabel("item GAUC above the OOV row", fontsize=9)
    return figure


def reliability_curves(curves: Mapping[str, Reliability]) -> Figure:
    """Observed against predicted click rate on cold rows, one bin of equal mass per point."""
    dashes = {"id": (0, (4, 3))}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.2), layout="constrained")
        axis = figure.subplots()
        top = max([0.05, *(float(max(c.predicted.max(), c.observed.max())) for c in curves.values() if len(c.rows))])
        axis.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle=":")
        for name, curve in curves.items():
            axis.plot(
                curve.predicted,
                curve.observed,
                marker="o",
                markersize=3.5,
                linewidth=3 if name == BASELINE else 1.4,
                linestyle=dashes.get(name, "-"),
                color=COLORS.get(name, INK),
                label=f"{name} (error {curve.error:.3f})",
            )
        axis.set_xlabel("predicted click rate")
        axis.set_ylabel("observed click rate")
        axis.legend(loc="upper left")
    return figure


def warm_up_curves(warm_up: Mapping[str, Any]) -> Figure:
    """Item GAUC by train clicks of the items, with intervals; gaps where it is undefined."""
    edges, curves = warm_up["edges"], warm_up["gauc_item"]
    names = [f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    names += [f"{edges[-1]}+"] if edges else []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.6), layout="constrained")
        axis = figure.subplots()
        for place, (name, points) in enumerate(curves.items()):
            value, low, high = (
                np.array([np.nan if point is None or point[key] is None else point[key] for point in points])
                for key in ("value", "low", "high")
            )
            x = np.arange(len(points)) + 0.06 * (place - (len(curves) - 1) / 2)
            reach = np.abs(np.stack([value - low, high - value]))
            color = COLORS.get(name, INK)
            axis.errorbar(x, value, reach, elinewidth=1, label=name, color=color, marker="o", markersize=4)
        shown = zip(names, warm_up["rows"], strict=True)
        axis.set_xticks(range(len(names)), [f"{name}\n{rows:,} rows" for name, rows in shown])
        axis.set_xlabel("clicks of the item in training")
        axis.set_ylabel("item GAUC")
        if curves:
            figure.legend(*axis.get_legend_handles_labels(), ncols=len(curves), loc="outside upper left", fontsize=8)
    return figure


def score_histograms(histogram: Mapping[str, Any], variants: Sequence[str], slice_name: str) -> Figure:
    """Distribution of click probabilities of clicked and skipped rows, one panel per variant."""
    edges = np.array(histogram["edges"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.4), layout="constrained")
        axes = figure.subplots(1, len(variants), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, variants, strict=True):
            for kind, color in (("skipped", COLORS[BASELINE]), ("clicked", ACCENT)):
                counts = np.array(histogram["counts"][name][slice_name][kind], float)
                share = counts / counts.sum() if counts.sum() else counts
                axis.stairs(share, edges, fill=True, color=color, alpha=0.3)
                axis.stairs(share, edges, color=color, linewidth=1.3, label=kind)
            axis.set_title(name)
            axis.set_yticks([])
            axis.set_xlim(0, 1)
            axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axis.grid(visible=False)
        axes[0].legend(fontsize=8)
        figure.supxlabel("predicted click probability", fontsize=9)
    return figure


def geometry(norms: Mapping[str, NDArray[Any]], cosines: Mapping[str, NDArray[Any]]) -> Figure:
    """Distribution of slot lengths, and of cosines between slot vectors and ID rows.

    Args:
        norms: Label -> lengths. A label that starts with a variant's name and a comma takes its color.
        cosines: Label -> cosines.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        panels = ((left, "length of the slot vector", norms), (right, "cosine", cosines))
        for axis, title, data in panels:
            samples = [(_color(name), name, values) for name, values in data.items() if len(values)]
            everything = np.concatenate([np.zeros(0), *(values for _, _, values in samples)])
            edges = np.linspace(everything.min(), everything.max(), 41) if len(everything) else 40
            for color, name, values in samples:
                axis.hist(values, bins=edges, density=True, histtype="stepfilled", alpha=0.25, color=color)
                axis.hist(values, bins=edges, density=True, histtype="step", color=color, label=name, linewidth=1.3)
            axis.set_title(title)
            axis.set_yticks([])
            axis.grid(visible=False)
            if samples:
                axis.legend()
    return figure


def id_directions(directions: Sequence[Mapping[str, float]]) -> Figure:
    """Principal directions of the ID table: share of the variance, and the part that content explains."""
    share, explained = (
        np.array([max(found["share"] * factor, 0.0) for found, factor in zip(directions, factors, strict=True)])
        for factors in ([1.0] * len(directions), [found["r2"] for found in directions])
    )
    place = np.arange(1, len(directions) + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.8), layout="constrained")
        axis = figure.subplots()
        axis.bar(place, share, color=COLORS["id"], alpha=0.3, width=0.72, label="in the ID table")
        axis.bar(place, explained, color=ACCENT, width=0.72, label="explained by content")
        for x, found, height in zip(place, directions, share, strict=True):
            label = "none" if found["r2"] <= 0 else f"{100 * found['r2']:.0f} %"
            axis.annotate(label, (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=7.5)
        axis.set_xticks(place)
        axis.tick_params(length=0)
        axis.grid(axis="x", visible=False)
        axis.set_xlabel("principal direction of the mature ID rows")
        axis.set_ylabel("share of the variance")
        axis.legend(loc="upper right")
    return figure


def _color(label: str) -> str:
    return COLORS.get(label.split(",")[0], COLORS[BASELINE])


def training_curves(metrics_logs: Mapping[str, Sequence[Mapping[str, Any]]], columns: int = 4) -> Figure | None:
    """Every metric that a training stage logged, or `None` without metrics."""
    panels = []
    for stage, lines in metrics_logs.items():
        keys = {key: None for line in lines for key, value in line.items() if isinstance(value, int | float)}
        for key in keys:
            points = [(line["done"], line[key]) for line in lines if key in line]
            if key not in ("time", "done", "total") and len(points) > 1:
                panels.append((f"{stage}: {key}", points))
    if not panels:
        return None
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 1.75 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (title, points) in zip(axes, panels, strict=False):
            done, values = zip(*points, strict=True)
            few = len(points) <= 30
            axis.plot(done, values, color=COLORS["id"], linewidth=1.2, marker="o" if few else None, markersize=2.5)
            axis.set_title(title, fontsize=8.5)
            axis.tick_params(labelsize=7.5, length=0)
            axis.locator_params(nbins=4)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
    return figure


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an inline SVG element: page colors, no fixed size, and ids that are unique by `name`."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (?:width|height)="[^"]*pt"', "", text, count=2)
    for fixed, variable in PAGE.items():
        text = text.replace(fixed, variable)
    return text
