"""One paragraph of the report for each part of the diagnostics."""

from collections.abc import Mapping
from typing import Any

from coldstart.evaluation.diagnostics.item_gains import MIN_ROWS
from coldstart.evaluation.diagnostics.modality_ablation import BOTH
from coldstart.evaluation.protocol.variants import BASELINE
from coldstart.evaluation.report.html_pages import GAP, figure, percent, signed

Stats = Mapping[str, Any]
MIN_SHIFT = 0.01
"""Total variation distance below which the slot vector has practically no influence on the attention."""


def report_text(summary: Stats) -> dict[str, str]:
    """Part of the diagnostics -> its paragraph, for the parts that were measured; and `origin`, of the gain."""
    diagnostics = summary.get("diagnostics") or {}
    interval = f"{summary['confidence'] * 100:g}{GAP}% interval"
    texts = {"origin": _origin(summary)}
    for name, write in _PARAGRAPHS.items():
        if diagnostics.get(name):
            texts[name] = write(diagnostics[name], interval, summary["headline"])
    return {name: text for name, text in texts.items() if text}


def _origin(summary: Stats) -> str:
    shares, headline, upper_bound = summary["item_effect_share"], summary["headline"], summary["upper_bound"]
    gain, best = shares.get(headline), shares.get(upper_bound)
    if not gain or not best or best["share"] is None:
        return ""
    reached = [
        f"{percent(gain[part] / best[part])} of its {part.replace('_', ' ')} ({signed(gain[part])} of "
        f"{signed(best[part])})"
        for part in ("item_effect", "personalization")
        if best[part] > 0
    ]
    if not reached:
        return ""
    return (
        f"{percent(best['share'])} of the gain of {upper_bound} on cold items is item effect, "
        f"{percent(1 - best['share'])} is personalization. The variant {headline} reaches "
        f"{' and '.join(reached)}."
    )


def _id_space(stats: Stats, interval: str, _: str) -> str:
    r2, item_effect, rest = stats["r2"], stats["r2_item_effect"], stats["r2_rest"]
    if r2["low"] is not None and r2["low"] > 0:
        explained = f"Content explains {percent(r2['value'])} of the variance of ID rows ({interval} {_range(r2)})"
    else:
        explained = f"Content explains no measurable part of the variance of ID rows ({interval} {_range(r2)})"
    items = (
        f"on {stats['test_items']:,} mature items that no training of the method has seen"
        if stats["held_out"]
        else f"on {stats['test_items']:,} mature items, most of them trained on (new items score lower)"
    )
    directions = (
        f"The table uses {stats['participation_ratio']:.1f} of its {stats['dim']} directions. "
        f"{percent(stats['item_effect'])} of its variance is item effect, along a single axis. Content explains "
        f"{percent(item_effect['value'])} along this axis and {percent(rest['value'])} of the rest."
    )
    recall, chance = stats["recall"], stats["chance_recall"]
    retrieval = (
        f"For {_share(recall['at_10'])} of the items, their own row is among the ten of {stats['items']:,} rows that "
        f"are nearest to the prediction; for {_share(recall['at_1'])} it is the nearest (chance: "
        f"{_share(chance['at_10'])} and {_share(chance['at_1'])})."
    )
    return f"{explained}, {items}. {directions} {retrieval}{_better_explained(item_effect, rest)}"


def _better_explained(item_effect: Stats, rest: Stats) -> str:
    if None in (item_effect["low"], rest["low"]):
        return ""
    if item_effect["low"] > rest["high"]:
        return " So content predicts the item effect better than the personalization."
    if rest["low"] > item_effect["high"]:
        return " So content predicts the personalization better than the item effect."
    return ""


def _attention(stats: Stats, _: str, headline: str) -> str:
    cold, mature = stats.get("cold"), stats.get("mature")
    if not cold:
        return ""
    vector, oov = cold[headline], cold[BASELINE]
    own = f" For a mature item's own ID row it is {percent(mature['id']['total_variation'], 1)}." if mature else ""
    shift = (
        f"Compared with the OOV row, the vector of {headline} moves {percent(vector['total_variation'], 1)} of a cold "
        f"item's attention to other parts of the history.{own} It puts {percent(vector['clicked_weight'])} on clicked "
        f"events (OOV: {percent(oov['clicked_weight'])}), which are {percent(vector['clicked_fraction'])} of all "
        "events."
    )
    if max(vector["total_variation"], mature["id"]["total_variation"] if mature else 0.0) < MIN_SHIFT:
        return f"{shift} The attention is almost the same for every item: in this ranker it does not distinguish items."
    return f"{shift} The normalized entropy is {figure(vector['normalized_entropy'], 2)} (1 is a uniform average)."


def _gains(stats: Stats, _: str, headline: str) -> str:
    if not stats["items"]:
        return ""
    return (
        f"For {percent(stats['improved_fraction'])} of the {stats['items']:,} cold items with at least {MIN_ROWS} "
        f"rows, {headline} predicts better than the OOV row. Over all cold rows log loss changes by "
        f"{signed(-stats['mean'], 4)}. The number below an item is its decrease of log loss per row, shrunk to the "
        "mean of all items (more with fewer rows)."
    )


def _modalities(stats: Stats, _: str, headline: str) -> str:
    inputs = stats["inputs"]
    both = inputs[BOTH]["gain"]
    if both["low"] is None or both["low"] <= 0:
        return f"On cold items that have both image and text, {headline} makes no measurable difference."
    single = {name: found for name, found in inputs.items() if name != BOTH}
    kept = " and ".join(
        f"{percent(found['gain']['value'] / both['value'])} with the {name} only" for name, found in single.items()
    )
    worse = [name for name, found in single.items() if found["drop"]["low"] > 0]
    significant = (
        "Each alone is measurably worse than both."
        if len(worse) == len(single)
        else f"Only the {worse[0]} alone is measurably worse than both."
        if worse
        else "Neither alone is measurably worse than both."
    )
    return f"Cold items keep {kept} of their gain over the OOV row ({signed(both['value'])}). {significant}"


def _share(share: float) -> str:
    """A share, with more digits if it is small."""
    return percent(share, 0 if share >= 0.1 else 1 if share >= 0.01 or share == 0 else 2)


def _range(stats: Stats) -> str:
    return f"{percent(stats['low'])} to {percent(stats['high'])}"


_PARAGRAPHS = {
    "id_space": _id_space,
    "attention": _attention,
    "gains": _gains,
    "modalities": _modalities,
}
