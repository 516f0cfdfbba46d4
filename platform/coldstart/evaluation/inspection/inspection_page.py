"""The inspection of a dataset for people: tables for the terminal, and a self-contained HTML page."""

import datetime as dt
from collections.abc import Sequence

from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from coldstart.evaluation.inspection.charts import SPLIT_COLORS, draw_charts
from coldstart.evaluation.inspection.dataset_warnings import DatasetWarning
from coldstart.evaluation.inspection.event_stats import BURST_S
from coldstart.evaluation.inspection.inspection import Inspection, quantiles
from coldstart.evaluation.inspection.item_stats import ContentSample
from coldstart.evaluation.report.html_pages import UNDEFINED, figure, page, percent
from coldstart.evaluation.report.plots import inline_svg

SHOWN_REASONS = 12
"""Reasons of rejected rows that are listed; there may be thousands, since some hold a number."""


def render_inspection(inspection: Inspection, warnings: Sequence[DatasetWarning], *, written_at: str) -> str:
    """The HTML page. It needs no network and no script.

    Args:
        inspection: The numbers.
        warnings: What will hurt.
        written_at: Date and time, for people.
    """
    charts = draw_charts(inspection)
    metadata = inspection.dataset.artifact.metadata
    return page(
        "inspection/inspection.html.j2",
        inspection=inspection,
        warnings=warnings,
        headline=headline(inspection, warnings),
        facts=facts(inspection),
        splits=_splits(inspection),
        split_colors=SPLIT_COLORS,
        missing=inspection.items.missing,
        reasons=inspection.rejected[:SHOWN_REASONS],
        other_reasons=len(inspection.rejected[SHOWN_REASONS:]),
        charts=charts,
        drawings={chart.name: Markup(inline_svg(chart.figure, chart.name)) for chart in charts},
        origin={
            "path": inspection.dataset.artifact.path,
            "fingerprint": inspection.dataset.artifact.fingerprint,
            "split": ", ".join(f"{key} {value}" for key, value in metadata["split"].items()),
            "seed": metadata["seed"],
            "written": written_at,
        },
    )


def headline(inspection: Inspection, warnings: Sequence[DatasetWarning]) -> str:
    """How much will hurt, in one sentence."""
    items, events = inspection.items.items, inspection.events
    size = f"{events.events:,} events of {events.users:,} users on {items:,} items"
    if not warnings:
        return f"{size}: nothing is known that will hurt."
    return f"{size}: {'one thing' if len(warnings) == 1 else f'{len(warnings)} things'} will hurt."


def terminal_tables(inspection: Inspection) -> list[Table]:
    """Facts, splits, missing modalities, and rejected rows if there are any."""
    known = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts(inspection).items():
        known.add_row(f"[dim]{name}[/]", value)
    splits = _table("split", "events", "clicks", "click rate", "from", "to")
    for row in _splits(inspection):
        splits.add_row(*row)
    missing = _table("missing", "items", "cold items", "items with train events")
    for name, one in inspection.items.missing.items():
        counts = ((one.cold + one.warm, one.share), (one.cold, one.cold_share), (one.warm, one.warm_share))
        missing.add_row(name, *(f"{count:,} ({percent(share)})" if count else "0" for count, share in counts))
    tables = [known, splits, missing]
    if inspection.rejected:
        rejected = Table("table", "rows", "not in the dataset because", "for example", box=None, padding=(0, 2, 0, 0))
        for reason in inspection.rejected[:SHOWN_REASONS]:
            examples = escape(", ".join(reason.examples))
            rejected.add_row(reason.table, f"{reason.rows:,}", escape(reason.reason), examples)
        if others := len(inspection.rejected[SHOWN_REASONS:]):
            rejected.add_row("", "", f"{others:,} other reasons", "")
        tables.append(rejected)
    return tables


def facts(inspection: Inspection) -> dict[str, str]:
    """What is counted -> its numbers, for the terminal and the page."""
    items, events, metadata = inspection.items, inspection.events, inspection.dataset.artifact.metadata
    drawn = metadata.get("drawn_negatives", 0)
    more = [f"{drawn:,} of them are drawn negatives"] if drawn else []
    if excluded := metadata.get("excluded_events", 0):
        more.append(f"{excluded:,} more are excluded by the split")
    bands = ", ".join(f"{name}: {percent(share)}" for name, share in inspection.bands.items())
    cold, both = events.cold, events.cold.users - events.cold.one_class_users
    return {
        "items": f"{items.items:,}; {_part(items.cold, items.items)} are cold",
        "users": f"{events.users:,} with {events.per_user.median():g} events (median); {events.single_event_users:,} "
        "have one",
        "events": "; ".join([f"{events.events:,}", *more]),
        "train events per item": f"median {items.train_events.median(at_least=1):g} of the items that have any; "
        f"shares of all items: {bands}",
        "cold test rows": f"{_part(cold.rows, events.test.rows)} of the test rows; {both:,} of {cold.users:,} users "
        f"have both classes in them; smallest gain in GAUC that they can show: {_gain(events.smallest_gain)}",
        "users with one class": f"{_part(events.test.one_class_users, events.test.users)} in the test rows, "
        f"{_part(cold.one_class_users, cold.users)} in the cold ones, with "
        f"{percent(cold.one_class_rows / max(cold.rows, 1), 1)} of the cold rows",
        "test rows without history": _part(events.without_history, events.test.rows),
        "one-burst users": f"{_part(events.burst_users, events.users)} have several events, all within "
        f"{BURST_S // 60} minutes; they own {percent(events.burst_events / max(events.events, 1), 1)} of the events",
        "equal contents": f"{items.equal_content:,} items have the content of another item; {items.cold_copies:,} "
        "cold items that of an item with train events",
        **_contents(inspection.sample),
    }


def _contents(sample: ContentSample) -> dict[str, str]:
    images, unreadable = len(sample.image_bytes), len(sample.image_bytes) - len(sample.image_sides)
    title = f"contents of {sample.items:,} sampled items"
    if not images and not len(sample.words):
        return {title: "no images and no texts"}
    parts = []
    if images:
        formats = [f"{count:,} {name}" for name, count in sample.formats.items()]
        formats += [f"{unreadable:,} unreadable"] if unreadable else []
        size = quantiles(sample.image_bytes)
        parts.append(
            f"images: {', '.join(formats)}, {_thousands(size['median'])} kB (median; 95 %: under "
            f"{_thousands(size['p95'])} kB)"
        )
        if len(sample.image_sides):
            width, height = (quantiles(sample.image_sides[:, side])["median"] for side in (0, 1))
            parts[-1] += f", {width:g} x {height:g} pixels (median)"
    if len(sample.words):
        words = quantiles(sample.words)
        parts.append(f"{words['median']:g} words in title and text (median; 95 %: at most {words['p95']:g})")
    return {title: "; ".join(parts)}


def _thousands(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value / 1000:,.1f}"


def _gain(value: float) -> str:
    return figure(value if value == value else None, 3)


def _splits(inspection: Inspection) -> list[tuple[str, ...]]:
    """Rows of name, events, clicks, click rate, first and last time."""
    return [
        (
            name,
            f"{split.events:,}",
            f"{split.clicks:,}",
            percent(split.click_rate if split.events else None, 1),
            _time(split.first_at),
            _time(split.last_at),
        )
        for name, split in inspection.events.splits.items()
    ]


def _time(seconds: int | None) -> str:
    return "" if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M")


def _part(part: int, whole: int) -> str:
    return f"{part:,} ({percent(part / whole if whole else None, 1)})"


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    return table
