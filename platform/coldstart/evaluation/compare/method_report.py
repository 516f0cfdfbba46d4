"""The comparison of methods: tables for the terminal and in Markdown, an HTML page and a chart."""

from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.table import Table

from coldstart.evaluation.compare.recommendation import METRIC, cold_test
from coldstart.evaluation.protocol.slices import SLICES, describe
from coldstart.evaluation.protocol.variants import BASELINE, ORACLES
from coldstart.evaluation.report.html_pages import figure, p_value, page, percent, signed
from coldstart.evaluation.report.plots import COLORS, FAINT, INK, STYLE, inline_svg

Stats = Mapping[str, Any]
INPUTS = ("both", "image", "text")
MODALITIES_EXPLAINED = (
    "Gain in item GAUC over the unknown item, on rows of cold items that have both, by the same trained model. "
    "So this measures how much it uses of each, not how well one trained on a single input would do."
)


def comparison_markdown(name: str, summary: Stats) -> str:
    """The Markdown page.

    Args:
        name: Of the run.
        summary: From `compare_methods`, plus `descriptions` by variant, `tuned` (variant -> setting, parameters,
            valid_gauc and costs), `modalities` (variant -> result of `aggregate_modalities`) and `recommendation`.
    """
    return "\n".join(_lines(name, summary)) + "\n"


def _lines(name: str, summary: Stats) -> Iterator[str]:
    seeds, percentage = summary["seeds"], f"{summary['confidence']:.0%}"
    over = "users and seeds" if len(seeds) > 1 else "users"
    on = "each on its own split" if summary["own_splits"] else "on the same test rows"
    upper_bound = summary["upper_bound"]
    yield f"# Comparison of methods on {name}"
    yield ""
    yield (
        f"Means over {len(seeds)} seed{'s'[: len(seeds) > 1]} ({', '.join(map(str, seeds))}) {on}; "
        f"{percentage} intervals over {over}. Cold rows are those of items that training never saw. "
        "A variant fills the slot of items without an ID row; other items keep theirs."
    )
    yield ""
    if "recommendation" in summary:
        yield summary["recommendation"]["text"]
        yield ""
    gap = " gap closed |" if upper_bound else ""
    yield f"| variant | item GAUC | over OOV |{gap} item effect | cold GAUC | log loss | ECE | warm GAUC |"
    yield "|" + "---|" * (8 + bool(upper_bound))
    for variant in summary["variants"]:
        yield _row(variant, summary)
    yield ""
    yield (
        "*Item GAUC* ranks by the logit minus that of an unknown item at the same moment, as the candidates of one "
        "request are ranked; *GAUC* over rows of different moments also measures how the user's state moves."
    )
    if upper_bound:
        yield f"*Gap closed* is the gain over {BASELINE} as a share of the gain of {upper_bound}."
    yield (
        "*Item effect* is the share of the gain in item GAUC that is the same for all users; the rest is "
        "personalization."
    )
    yield ""
    yield "## GAUC by slice"
    yield ""
    yield f"| variant | {' | '.join(SLICES)} |"
    yield "|" + "---|" * (1 + len(SLICES))
    for variant in summary["variants"]:
        cells = [_spread(summary["metrics"][variant][each]["gauc"]) for each in SLICES]
        yield f"| {variant} | {' | '.join(cells)} |"
    yield ""
    yield from _modalities(summary)
    yield "## Which differences are significant"
    yield ""
    yield from _sentences(summary)
    yield ""
    yield "## Variants"
    yield ""
    costs = "seconds | µs / candidate | ms / published item | bytes / item"
    yield f"| variant | description | parameters | chosen on validation | valid item GAUC | {costs} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for variant in summary["variants"]:
        tuned = summary["tuned"].get(variant, {})
        setting = ", ".join(f"{key} {value:g}" for key, value in tuned.get("setting", {}).items())
        valid, description = figure(tuned.get("valid_gauc")), summary["descriptions"][variant]
        costs = " | ".join(_costs(tuned))
        yield f"| {variant} | {description} | {tuned.get('parameters', 0):,} | {setting} | {valid} | {costs} |"


def _modalities(summary: Stats) -> Iterator[str]:
    """Gains with image and text alone, if they were measured."""
    if not summary["modalities"]:
        return
    yield "## Image and text"
    yield ""
    yield MODALITIES_EXPLAINED
    yield ""
    yield "| variant | both | image alone | text alone |"
    yield "|---|---|---|---|"
    for variant, inputs in summary["modalities"].items():
        yield f"| {variant} | {' | '.join(_gain(inputs[name]['gain']) for name in INPUTS)} |"
    yield ""


def _costs(tuned: Stats) -> list[str]:
    """Seconds of one training and its scoring, then the costs in serving (see `serving_cost`)."""
    if not tuned:
        return [""] * 4
    per_candidate, per_item = f"{tuned['us_per_candidate']:.1f}", f"{tuned['ms_per_item']:.1f}"
    return [f"{np.mean(tuned['seconds']):.1f}", per_candidate, per_item, f"{tuned['bytes_per_item']:,}"]


def comparison_table(summary: Stats) -> Table:
    """The table for the terminal."""
    table = Table(title="cold rows", title_justify="left", box=None, padding=(0, 2, 0, 0))
    titles = ("variant", "item GAUC", "over OOV", "gap closed", "item effect", "GAUC", "log loss", "µs / candidate")
    for title in titles:
        table.add_column(title, justify="left" if title == "variant" else "right", no_wrap=True)
    recommended = summary["recommendation"]["variant"]
    for variant in summary["variants"]:
        cold, over = summary["metrics"][variant]["cold"], cold_test(summary, variant, BASELINE)
        table.add_row(
            variant,
            figure(cold[METRIC]["value"], 3),
            f"{signed(over['delta'])} {_range(over)}" if over else "",
            _share(summary["gap_closed_item"].get(variant)),
            _share(summary["item_effect_share"].get(variant)),
            *(figure(cold[metric]["value"], 3) for metric in ("gauc", "logloss")),
            _costs(summary["tuned"].get(variant, {}))[1],
            style="bold" if variant == recommended else "",
        )
    return table


def comparison_page(name: str, summary: Stats) -> str:
    """The HTML page. It needs no network and no script."""
    shown = [each for each in summary["comparisons"] if each["metric"] == METRIC and each["delta"] is not None]
    return page(
        "compare/methods.html.j2",
        name=name,
        summary=summary,
        slices={each: describe(each) for each in SLICES},
        over_oov={each: cold_test(summary, each, BASELINE) for each in summary["variants"]},
        modalities={
            each: [_gain(inputs[name]["gain"]) for name in INPUTS] for each, inputs in summary["modalities"].items()
        },
        modalities_explained=MODALITIES_EXPLAINED,
        costs={each: _costs(summary["tuned"].get(each, {})) for each in summary["variants"]},
        shown_comparisons=[each for each in shown if each["against"] != BASELINE],
        drawing=Markup(inline_svg(comparison_chart(summary), "comparison")),
    )


def _row(variant: str, summary: Stats) -> str:
    cold, warm = (summary["metrics"][variant][place] for place in ("cold", "warm"))
    over = cold_test(summary, variant, BASELINE)
    cells = [f"**{variant}**" if variant in ("fine", "joint") else variant, _spread(cold[METRIC])]
    cells.append(f"{signed(over['delta'])} {_range(over)}" if over else "")
    if summary["upper_bound"]:
        cells.append(_share(summary["gap_closed_item"].get(variant)))
    cells.append(_share(summary["item_effect_share"].get(variant)))
    cells += [figure(cold[metric]["value"], 3) for metric in ("gauc", "logloss", "ece")]
    cells.append(figure(warm["gauc"]["value"], 3))
    return "| " + " | ".join(cells) + " |"


def _sentences(summary: Stats) -> Iterator[str]:
    """Every comparison on cold rows, the significant ones first."""
    cold = [each for each in summary["comparisons"] if each["slice"] == "cold" and each["metric"] == METRIC]
    cold = [each for each in cold if each["against"] != BASELINE and each["delta"] is not None]
    for significant in (True, False):
        for each in cold:
            if _is_significant(each, summary) != significant:
                continue
            pair = f"**{each['variant']}** against {each['against']}: {signed(each['delta'], 4)} {_range(each, 4)}"
            p = f"p {p_value(each['p_holm'])}" if significant else f"not significant (p {p_value(each['p_holm'])})"
            excluded = "" if each["mde"] is None or significant else f"; effects above {each['mde']:.4f} are excluded"
            yield f"- {pair}, {p}{excluded}{_by_split(each, summary)}"


def _gain(gain: Stats) -> str:
    """A gain with its spread over seeds or, of one seed, its interval over users."""
    if gain["spread"] is not None:
        return f"{signed(gain['value'])} ± {gain['spread']:.3f}"
    ((low, high),) = gain["ranges"]
    return f"{signed(gain['value'])} [{signed(low)}, {signed(high)}]"


def _by_split(found: Stats, summary: Stats) -> str:
    """The difference on each split, with its interval over users."""
    if not summary["own_splits"] or len(summary["seeds"]) == 1:
        return ""
    splits = zip(found["by_seed"], found["ranges"], strict=True)
    each = [f"{signed(value, 4)} [{signed(low, 4)}, {signed(high, 4)}]" for value, (low, high) in splits]
    return "; by split " + ", ".join(each)


def _is_significant(each: Stats, summary: Stats) -> bool:
    return each["p_holm"] is not None and each["p_holm"] < 1 - summary["confidence"]


def _spread(found: Stats) -> str:
    spread = found.get("spread")
    return figure(found["value"], 3) + ("" if spread is None else f" ± {spread:.3f}")


def _range(found: Stats, digits: int = 3) -> str:
    if found.get("low") is None:
        return ""
    return f"[{signed(found['low'], digits)}, {signed(found['high'], digits)}]"


def _share(found: Stats | None) -> str:
    return "" if not found or found["value"] is None else percent(found["value"])


def comparison_chart(summary: Stats) -> Figure:
    """Item GAUC on cold rows of every variant, with its interval."""
    names = [
        name for name in reversed(summary["variants"]) if summary["metrics"][name]["cold"][METRIC]["value"] is not None
    ]
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(7.2, 0.9 + 0.3 * len(names)), layout="constrained")
        axis = drawing.subplots()
        for y, name in enumerate(names):
            found = summary["metrics"][name]["cold"][METRIC]
            color = FAINT if name in ORACLES else COLORS.get(name, "#4a7bd0")
            axis.barh(y, found["value"], color=color, height=0.62)
            if found["low"] is not None:
                axis.plot([found["low"], found["high"]], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
        values = [summary["metrics"][name]["cold"][METRIC]["value"] for name in names]
        if values:
            axis.set_xlim(max(min(values) - 0.05, 0), max(values) + 0.03)
        axis.set_yticks(range(len(names)), names)
        axis.grid(axis="y", visible=False)
        axis.tick_params(length=0)
        axis.set_xlabel("item GAUC on cold rows")
    return drawing
