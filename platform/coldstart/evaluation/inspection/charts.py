"""Charts of the inspection of a dataset."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coldstart.evaluation.inspection.hourly_counts import Period
from coldstart.evaluation.inspection.inspection import Inspection
from coldstart.evaluation.protocol.variants import BASELINE, OWN_ID
from coldstart.evaluation.report.plots import ACCENT, COLORS, STYLE, Chart

SPLIT_COLORS = {"train": COLORS[OWN_ID], "valid": COLORS[BASELINE], "test": ACCENT}
_LARGEST_DOT = 60
_BINS = 24
_MANY_BINS = 9


def draw_charts(inspection: Inspection) -> list[Chart]:
    """All charts, in order; one of events over time only if there are such events."""
    charts = [_counts(inspection)]
    unit, periods = inspection.cold_periods
    if periods:
        charts.append(_cold_share(unit, periods))
    unit, periods = inspection.events.hourly.periods()
    return [*charts, _click_rate(unit, periods), _sizes(inspection)]


def _counts(inspection: Inspection) -> Chart:
    panels = (
        ("items by train events", "train events of the item", inspection.items.train_events.histogram()),
        ("users by events", "events of the user", inspection.events.per_user.histogram()),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.2), layout="constrained")
        for axis, (title, label, histogram) in zip(figure.subplots(1, 2), panels, strict=True):
            names, units = zip(*histogram, strict=True)
            bars = axis.bar(range(len(names)), units, color=COLORS[OWN_ID], width=0.78)
            axis.bar_label(bars, [f"{number:,}" for number in units], fontsize=7.5, padding=2)
            axis.set_xticks(range(len(names)), names, fontsize=7.5 if len(names) < _MANY_BINS else 6)
            axis.set_title(title)
            axis.set_xlabel(label)
            axis.grid(axis="x", visible=False)
            axis.tick_params(length=0)
    shares = ", ".join(f"{name} events {share:.0%}" for name, share in inspection.bands.items())
    return Chart(
        "counts",
        "Events per item and per user",
        "Bins are logarithmic. Items with 0 train events are cold: only their content says what they are.",
        f"Bar charts of items by train events and of users by events. Share of items by train events: {shares}.",
        figure,
    )


def _cold_share(unit: str, periods: Sequence[Period]) -> Chart:
    events = np.array([period.events for period in periods])
    share = np.array([period.cold_events for period in periods]) / events
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.8), layout="constrained")
        axis = figure.subplots()
        _draw_rates(axis, periods, share, ACCENT, "cold share")
        axis.set_ylim(0, min(1.0, 1.15 * float(share.max()) or 1.0))
        axis.set_ylabel("cold share of the events")
    total = float(share @ events / events.sum())
    return Chart(
        "cold-share",
        f"Cold share of the test events per {unit}",
        "An item is cold if it has no train event. The further from the end of train, the more items are. The larger "
        "a dot, the more events.",
        f"Line chart of the share of cold events in the test split per {unit}: {share[0]:.0%} in the first, "
        f"{share[-1]:.0%} in the last, {total:.0%} of all.",
        figure,
    )


def _click_rate(unit: str, periods: Sequence[Period]) -> Chart:
    shown = {name: [period for period in periods if period.split == name] for name in SPLIT_COLORS}
    totals = {
        name: sum(period.clicks for period in own) / sum(period.events for period in own)
        for name, own in shown.items()
        if own
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.8), layout="constrained")
        axis = figure.subplots()
        for name, rate in totals.items():
            clicked = np.array([period.clicks / period.events for period in shown[name]])
            _draw_rates(axis, shown[name], clicked, SPLIT_COLORS[name], f"{name} ({rate:.1%})")
        axis.set_ylabel("click rate")
        axis.set_ylim(bottom=0)
        axis.legend(ncols=3, fontsize=8)
    return Chart(
        "click-rate",
        f"Click rate per {unit}",
        "A step shows that the surface or the logging changed; a slope, that users or items did. The larger a dot, the "
        "more events.",
        f"Line chart of the click rate per {unit}. Of the whole split: "
        + ", ".join(f"{name} {rate:.1%}" for name, rate in totals.items()),
        figure,
    )


def _draw_rates(axis: Axes, periods: Sequence[Period], rate: NDArray[np.float64], color: str, label: str) -> None:
    when = np.array([period.start for period in periods]).astype("datetime64[s]")
    events = np.array([period.events for period in periods])
    axis.plot(when, rate, color=color, linewidth=1, alpha=0.5)
    axis.scatter(when, rate, s=_LARGEST_DOT * events / events.max() + 1, color=color, label=label, linewidths=0)
    locator = AutoDateLocator()
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _sizes(inspection: Inspection) -> Chart:
    sample = inspection.sample
    longer = sample.image_sides.max(axis=1, initial=0)
    panels = (
        ("bytes of an image", sample.image_bytes),
        ("longer side of an image, pixels", longer),
        ("words in title and text", sample.words),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.6), layout="constrained")
        for axis, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
            axis.set_title(title)
            axis.set_yticks([])
            axis.grid(visible=False)
            low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
            if low < high:
                edges = np.linspace(low, high + 1, min(_BINS, high - low + 1) + 1)
                axis.hist(values, bins=edges, color=COLORS[OWN_ID])
            else:
                axis.set_xticks([])
                text = f"{low:,} in all" if len(values) else "none"
                axis.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center")
    medians = ", ".join(f"{title} {np.median(values):,.0f}" for title, values in panels if len(values))
    return Chart(
        "sizes",
        "Sizes of images and texts",
        f"Of a sample of {sample.items:,} items. Sizes in pixels are read from headers, as the files are stored.",
        f"Histograms of the sizes of contents. Medians: {medians or 'not defined'}.",
        figure,
    )
