"""The diagnosis in sentences: what each group of figures says about the run, and nothing that they do not say."""

from collections.abc import Mapping
from typing import Any

from coldstart.evaluation.item_gains import MIN_ROWS
from coldstart.evaluation.modalities import WHOLE
from coldstart.evaluation.pages import GAP, figure, percent, signed

Figures = Mapping[str, Any]
STILL = 0.01
"""A slot that moves less of the attention than this does not steer it."""


def findings(summary: Figures) -> dict[str, str]:
    """A finding for each part of the diagnosis that was measured, by its name; `origin` where gains could be split."""
    found = summary.get("diagnosis") or {}
    told = {
        "origin": _origin(summary),
        **{
            name: tell(found[name], f"{summary['confidence'] * 100:g}{GAP}% interval")
            for name, tell in _TOLD.items()
            if found.get(name)
        },
    }
    return {name: sentence for name, sentence in told.items() if sentence}


def _origin(summary: Figures) -> str:
    shares, ceiling = summary["appeal_share"], summary["ceiling"]
    fine, perfect = shares.get("fine"), shares.get(ceiling)
    if not fine or not perfect or perfect["share"] is None:
        return ""
    parts = [
        f"Of what {ceiling} gains on cold items, {percent(perfect['share'])} is appeal and "
        f"{percent(1 - perfect['share'])} taste. Fine proxies reach"
    ]
    reached = [
        f"{percent(fine[kind] / perfect[kind])} of its {kind} ({signed(fine[kind])} of {signed(perfect[kind])})"
        for kind in ("appeal", "taste")
        if perfect[kind] > 0
    ]
    return " ".join([*parts, " and ".join(reached)]) + "." if reached else ""


def _id_space(found: Figures, span: str) -> str:
    whole, appeal, rest = found["r2"], found["r2_appeal"], found["r2_rest"]
    if whole["low"] is not None and whole["low"] > 0:
        told = f"Content explains {percent(whole['value'])} of what ID rows differ by ({span} {_span(whole)})"
    else:
        told = f"Content says nothing measurable about what ID rows differ by ({span} {_span(whole)})"
    judged = (
        f"on {found['judged']:,} mature items that coarse alignment kept out"
        if found["kept_out"]
        else f"on {found['judged']:,} mature items, most of which the encoder was aligned with: new items are harder"
    )
    consists = (
        f"The table uses {found['effective']:.1f} of its {found['width']} directions, and {percent(found['appeal'])} "
        f"of its variance is appeal, a single axis; along it content explains {percent(appeal['value'])}, of all the "
        f"rest {percent(rest['value'])}."
    )
    nearest = (
        f"Among the ten of {found['items']:,} rows that are nearest to what content predicts, "
        f"{_small(found['found']['at_10'])} of the items find their own, {_small(found['found']['at_1'])} as the very "
        f"nearest (by chance {_small(found['chance']['at_10'])} and {_small(found['chance']['at_1'])})."
    )
    return f"{told}, {judged}. {consists} {nearest}{_leaning(appeal, rest)}"


def _leaning(appeal: Figures, rest: Figures) -> str:
    if None in (appeal["low"], rest["low"]):
        return ""
    if appeal["low"] > rest["high"]:
        return " So it is appeal that content tells best here."
    if rest["low"] > appeal["high"]:
        return " So content tells who likes an item better than how much it is liked."
    return ""


def _adaptor(found: Figures, _: str) -> str:
    length, spread = found["length"] / found["id_length"], found["spread"] / found["id_spread"]
    said = []
    gate = found["gate"]
    if gate:
        steered = gate["open"] + gate["closed"]
        said.append(
            f"Over {found['items']:,} cold items the gate lets {percent(gate['mean'])} of what the layer states add "
            f"through, by direction {percent(min(gate['by_direction']))} to {percent(max(gate['by_direction']))}; "
            f"{percent(gate['open'])} of its openings are wide open and {percent(gate['closed'])} shut"
            + (", so it weighs the two sources rather than choosing between them." if steered < 0.1 else ".")
        )
    said.append(
        f"Fine proxies of cold items are {percent(length)} as long as mature ID rows, and lie {percent(spread)} as far "
        "from their own mean" + (": cold items are told apart less than trained ones." if spread < 0.8 else ".")
    )
    return " ".join(said)


def _gaze(found: Figures, _: str) -> str:
    cold, mature = found.get("cold"), found.get("mature")
    if not cold:
        return ""
    fine, oov = cold["fine"], cold["oov"]
    own = f" A mature item's own ID row takes {percent(mature['id']['moved'], 1)} elsewhere." if mature else ""
    moved = (
        f"A fine proxy in the slot takes {percent(fine['moved'], 1)} of a cold item's attention elsewhere in the "
        f"user's past than the OOV row; {percent(fine['liked'])} of it is on clicked events "
        f"(OOV: {percent(oov['liked'])}), which are {percent(fine['liked_events'])} of all.{own}"
    )
    if max(fine["moved"], mature["id"]["moved"] if mature else 0.0) < STILL:
        return (
            f"{moved} It is all but the same for every item: this ranker tells items apart elsewhere than by attention."
        )
    return f"{moved} Its evenness is {figure(fine['evenness'], 2)} (1 would be a plain average)."


def _gains(found: Figures, _: str) -> str:
    if not found["items"]:
        return ""
    return (
        f"{percent(found['better'])} of the {found['items']:,} cold items with at least {MIN_ROWS} rows are predicted "
        "better from their fine proxy than from the OOV row; over all cold rows log loss changes by "
        f"{signed(-found['mean'], 4)}. Below an item stands the fall of its log loss per row, drawn towards the mean "
        "of all items by how few rows it rests on."
    )


def _modalities(found: Figures, _: str) -> str:
    readings = found["readings"]
    whole = readings[WHOLE]["gain"]
    if whole["low"] is None or whole["low"] <= 0:
        return (
            "Proxies of items that show both picture and words make no measurable difference here, alone or together."
        )
    alone = {name: reading for name, reading in readings.items() if name != WHOLE}
    kept = " and ".join(
        f"{percent(reading['gain']['value'] / whole['value'])} by the {name} alone" for name, reading in alone.items()
    )
    missed = [name for name, reading in alone.items() if reading["lacks"]["low"] > 0]
    sure = (
        "Each alone loses measurably to both."
        if len(missed) == len(alone)
        else f"Only the {missed[0]} alone loses measurably to both."
        if missed
        else "Neither loses measurably to both."
    )
    return f"Of their gain over the OOV row ({signed(whole['value'])}) cold items keep {kept}. {sure}"


def _small(share: float) -> str:
    """A share with a digit more for each step that it is smaller than the usual."""
    return percent(share, 0 if share >= 0.1 else 1 if share >= 0.01 or share == 0 else 2)


def _span(found: Figures) -> str:
    return f"{percent(found['low'])} to {percent(found['high'])}"


_TOLD = {"id_space": _id_space, "adaptor": _adaptor, "gaze": _gaze, "gains": _gains, "modalities": _modalities}
