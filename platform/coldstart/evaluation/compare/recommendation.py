"""The recommendation: which method to use on a catalog, by a written rule from the intervals of a comparison.

The rule, on item GAUC of cold rows (the candidates of a request share the user's state, so only what a score is above
that of an unknown item at that moment ranks them; GAUC over requests also measures how the user's state moves):

1. The reference is the best baseline (the highest value among variants that are no method).
2. If methods are surely better than the reference (Holm-corrected p below 1 - confidence), the best of them is used.
3. Otherwise the reference is used, if it is surely better than the OOV row; else the ranker stays as it is.
4. Where a test could not have detected an effect of `WORTHWHILE`, the recommendation says that the rows are too few.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from coldstart.evaluation.protocol.variants import BASELINE, ORACLES

METRIC = "gauc_item"
WORTHWHILE = 0.01
"""A difference in item GAUC that is worth a method; rows that cannot show it are too few to tell."""
Stats = Mapping[str, Any]


def recommend(summary: Stats, methods: Sequence[str]) -> dict[str, Any]:
    """The variant to use, and why.

    Args:
        summary: From `compare_methods`.
        methods: Variants that are methods; all others but the oracles are baselines.

    Returns:
        `variant`, the best baseline as `reference`, `text` of two sentences, and `enough_rows`.
    """
    cold = {
        name: by_slice["cold"][METRIC]["value"]
        for name, by_slice in summary["metrics"].items()
        if name not in ORACLES and by_slice["cold"][METRIC]["value"] is not None
    }
    if BASELINE not in cold:
        text = "There are no cold rows to compare on. Choose a split with items that training never saw."
        return {"variant": BASELINE, "reference": BASELINE, "text": text, "enough_rows": False}
    reference = max((name for name in cold if name not in methods), key=cold.__getitem__)
    tests = {name: cold_test(summary, name, reference) for name in cold if name in methods}
    better = [name for name, found in tests.items() if is_surely_better(found, summary)]
    least = min((_effect(found) for found in tests.values()), default=None)
    enough = least is None or least <= WORTHWHILE
    if better:
        best = max(better, key=cold.__getitem__)
        against = "the OOV row" if reference == BASELINE else f"{reference}, the best baseline"
        text = f"Use {best}: on cold rows its item GAUC is {cold[best]:.3f}, {_interval(tests[best])} above {against}. "
        return {"variant": best, "reference": reference, "text": text + _origin(summary, best), "enough_rows": True}
    over_oov = None if reference == BASELINE else cold_test(summary, reference, BASELINE)
    if over_oov is not None and is_surely_better(over_oov, summary):
        gauc = f"on cold rows its item GAUC is {cold[reference]:.3f}, {_interval(over_oov)} above the OOV row"
        text = f"Use {reference}: {gauc}, and no method is surely better. {_power(least, enough)}"
        return {"variant": reference, "reference": reference, "text": text, "enough_rows": enough}
    if reference != BASELINE and over_oov is not None:
        enough = enough and _effect(over_oov) <= WORTHWHILE
        least = max(_effect(over_oov), least or 0.0)
    text = "Keep the ranker as it is: nothing is surely better than its OOV row on cold rows. "
    return {"variant": BASELINE, "reference": reference, "text": text + _power(least, enough), "enough_rows": enough}


def is_surely_better(test: Stats | None, summary: Stats) -> bool:
    """Whether the difference is above zero and its corrected p-value is below 1 - confidence."""
    return (
        test is not None
        and test["p_holm"] is not None
        and test["delta"] > 0
        and test["p_holm"] < 1 - summary["confidence"]
    )


def cold_test(summary: Stats, variant: str, against: str) -> Stats | None:
    """The comparison of two variants on cold rows by `METRIC`, if there is one."""
    wanted = (variant, against, "cold", METRIC)
    for each in summary["comparisons"]:
        if (each["variant"], each["against"], each["slice"], each["metric"]) == wanted:
            found: Stats = each
            return found
    return None


def _effect(test: Stats | None) -> float:
    """The minimum detectable effect; infinite if it is not known."""
    return float("inf") if test is None or test["mde"] is None else float(test["mde"])


def _interval(test: Stats | None) -> str:
    assert test is not None
    return f"{test['delta']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]".replace("-", "\u2212")


def _origin(summary: Stats, variant: str) -> str:
    share = (summary["item_effect_share"].get(variant) or {}).get("value")
    closed = (summary.get("gap_closed_item", {}).get(variant) or {}).get("value")
    parts = []
    if closed is not None:
        parts.append(f"closes {closed:.0%} of the gap to {summary['upper_bound']}")
    if share is not None:
        parts.append(f"reaches {share:.0%} of its gain by the item effect alone, which is the same for all users")
    return f"It {' and '.join(parts)}." if parts else "Its gain over all baselines is beyond chance."


def _power(effect: float | None, enough: bool) -> str:
    if effect is None:
        return "No method was compared with it."
    if effect == float("inf"):
        return "The comparison has too few rows to tell: no minimum detectable effect can be computed."
    if enough:
        return f"The rows would have shown a difference of {effect:.3f} (80 % power)."
    return (
        f"The comparison has too few rows to tell: it can detect differences from {effect:.3f} on only (80 % power); "
        "bring more events, or more seeds."
    )
