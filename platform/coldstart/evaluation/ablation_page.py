"""The ablation for people: a page of Markdown and a chart."""

from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from coldstart.evaluation.pages import figure, p_value, percent, signed
from coldstart.evaluation.plots import COLOURS, FAINT, INK, STYLE
from coldstart.evaluation.variants import BASELINE, ORACLES

Figures = Mapping[str, Any]


def ablation_markdown(name: str, about: Figures) -> str:
    """The page.

    Args:
        name: Of the run.
        about: From `ablation`, with `meanings` by variant and `tuned` (variant -> setting, parameters, valid_gauc).
    """
    return "\n".join(_lines(name, about)) + "\n"


def _lines(name: str, about: Figures) -> Iterator[str]:
    seeds, percentage = about["seeds"], f"{about['confidence']:.0%}"
    over = "users and seeds" if len(seeds) > 1 else "users"
    on = "each on a split of its own" if about["own_splits"] else "on the same test rows"
    ceiling = about["ceiling"]
    yield f"# Ablation of {name}"
    yield ""
    yield (
        f"Means over {len(seeds)} seed{'s'[: len(seeds) > 1]} ({', '.join(map(str, seeds))}) {on}; "
        f"{percentage} intervals over {over}. Cold rows are those of items that training never saw. "
        "What a variant says stands in the slot of items without an ID; others keep theirs."
    )
    yield ""
    gap = " gap closed |" if ceiling else ""
    yield f"| variant | cold GAUC | over OOV |{gap} item GAUC |{gap} appeal | log loss | ECE | warm GAUC |"
    yield "|" + "---|" * (8 + 2 * bool(ceiling))
    for variant in about["variants"]:
        yield _row(variant, about)
    yield ""
    yield "*Item GAUC* ranks by what the slot adds to the score of an unknown item in the same context."
    if ceiling:
        yield f"*Gap closed* is the share of the way from {BASELINE} to {ceiling}."
    yield "*Appeal* is the share of the gain in item GAUC that is the same for all users; the rest is taste."
    yield ""
    yield "## Which differences are real"
    yield ""
    yield from _sentences(about)
    yield ""
    yield "## What each variant is"
    yield ""
    yield "| variant | what it is | parameters | chosen on validation | valid GAUC |"
    yield "|---|---|---|---|---|"
    for variant in about["variants"]:
        tuned = about["tuned"].get(variant, {})
        setting = ", ".join(f"{key} {value:g}" for key, value in tuned.get("setting", {}).items())
        valid = figure(tuned.get("valid_gauc"))
        yield f"| {variant} | {about['meanings'][variant]} | {tuned.get('parameters', 0):,} | {setting} | {valid} |"


def _row(variant: str, about: Figures) -> str:
    cold, warm = (about["metrics"][variant][place] for place in ("cold", "warm"))
    over = _difference(about, variant, BASELINE, "gauc")
    cells = [f"**{variant}**" if variant in ("fine", "joint") else variant, _spread(cold["gauc"])]
    cells.append(f"{signed(over['delta'])} {_range(over)}" if over else "")
    if about["ceiling"]:
        cells.append(_share(about["gap_closed"].get(variant)))
    cells.append(figure(cold["gauc_item"]["value"], 3))
    if about["ceiling"]:
        cells.append(_share(about["gap_closed_item"].get(variant)))
    cells.append(_share(about["appeal_share"].get(variant)))
    cells += [figure(cold[metric]["value"], 3) for metric in ("logloss", "ece")]
    cells.append(figure(warm["gauc"]["value"], 3))
    return "| " + " | ".join(cells) + " |"


def _sentences(about: Figures) -> Iterator[str]:
    """Every comparison on cold rows, those that are sure first."""
    cold = [each for each in about["comparisons"] if each["slice"] == "cold" and each["metric"] == "gauc"]
    cold = [each for each in cold if each["against"] != BASELINE and each["delta"] is not None]
    for sure in (True, False):
        for each in cold:
            if _sure(each, about) != sure:
                continue
            pair = f"**{each['variant']}** against {each['against']}: {signed(each['delta'], 4)} {_range(each, 4)}"
            said = f"p {p_value(each['p_holm'])}" if sure else f"not sure (p {p_value(each['p_holm'])})"
            missed = "" if each["mde"] is None or sure else f"; effects above {each['mde']:.4f} are excluded"
            yield f"- {pair}, {said}{missed}{_by_split(each, about)}"


def _by_split(found: Figures, about: Figures) -> str:
    """What each split says by itself, with its interval over users."""
    if not about["own_splits"] or len(about["seeds"]) == 1:
        return ""
    alone = zip(found["by_seed"], found["ranges"], strict=True)
    each = [f"{signed(value, 4)} [{signed(low, 4)}, {signed(high, 4)}]" for value, (low, high) in alone]
    return "; by split " + ", ".join(each)


def _sure(each: Figures, about: Figures) -> bool:
    return each["p_holm"] is not None and each["p_holm"] < 1 - about["confidence"]


def _difference(about: Figures, variant: str, against: str, metric: str) -> Figures | None:
    wanted = (variant, against, "cold", metric)
    for each in about["comparisons"]:
        if (each["variant"], each["against"], each["slice"], each["metric"]) == wanted:
            found: Figures = each
            return found
    return None


def _spread(found: Figures) -> str:
    spread = found.get("spread")
    return figure(found["value"], 3) + ("" if spread is None else f" ± {spread:.3f}")


def _range(found: Figures, digits: int = 3) -> str:
    if found.get("low") is None:
        return ""
    return f"[{signed(found['low'], digits)}, {signed(found['high'], digits)}]"


def _share(found: Figures | None) -> str:
    return "" if not found or found["value"] is None else percent(found["value"])


def ablation_chart(about: Figures) -> Figure:
    """Cold GAUC of every variant with its interval."""
    names = [
        name for name in reversed(about["variants"]) if about["metrics"][name]["cold"]["gauc"]["value"] is not None
    ]
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(7.2, 0.9 + 0.3 * len(names)), layout="constrained")
        axis = drawing.subplots()
        for y, name in enumerate(names):
            found = about["metrics"][name]["cold"]["gauc"]
            colour = FAINT if name in ORACLES else COLOURS.get(name, "#4a7bd0")
            axis.barh(y, found["value"], color=colour, height=0.62)
            if found["low"] is not None:
                axis.plot([found["low"], found["high"]], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
        values = [about["metrics"][name]["cold"]["gauc"]["value"] for name in names]
        if values:
            axis.set_xlim(max(min(values) - 0.05, 0), max(values) + 0.03)
        axis.set_yticks(range(len(names)), names)
        axis.grid(axis="y", visible=False)
        axis.tick_params(length=0)
        axis.set_xlabel("GAUC on cold rows")
    return drawing
