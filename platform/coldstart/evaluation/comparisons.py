"""Comparisons between variants: paired differences with intervals, tests corrected for their number, and power."""

from collections.abc import Iterator, Mapping
from typing import Any

from coldstart.evaluation.intervals import corrected, tested
from coldstart.evaluation.protocol import BY_ITEM, SERVED, Protocol
from coldstart.evaluation.resampling import Over, Resampled
from coldstart.evaluation.slices import SLICES

PAIRS = {
    "oov": ("id", "mlp_map", "coarse", "fine", "joint"),
    "mlp_map": ("coarse", "fine", "joint"),
    "fine": ("joint",),
    "id": ("coarse", "fine", "joint", "release"),
}
"""Against -> variants compared with it; these are corrected together, per slice and metric."""
METRICS = {"gauc": SERVED, "gauc_item": BY_ITEM}


def comparisons(protocol: Protocol, resampled: Mapping[str, Resampled], *, confidence: float) -> list[dict[str, Any]]:
    """One entry per slice, metric and pair.

    Args:
        protocol: Names the scores.
        resampled: Slice -> its resamples.
        confidence: Of the test whose power is told.

    Returns:
        Entries of `variant`, `against`, `slice`, `metric`, `delta`; `low`, `high` over users, `low_items`,
        `high_items` over items, `low_both`, `high_both` over both; and from the latter `p`, `p_holm` and `mde`, the
        difference that would be found with 80 % power. `p` is NaN where two variants score every row alike.
    """
    return [
        entry
        for name in SLICES
        for metric in METRICS
        for entry in _family(protocol, resampled[name], name, metric, confidence)
    ]


def _family(
    protocol: Protocol, found: Resampled, slice_name: str, metric: str, confidence: float
) -> Iterator[dict[str, Any]]:
    def at(name: str) -> int:
        return protocol.scores.index((METRICS[metric], name))

    for against, compared in PAIRS.items():
        entries = [
            {"variant": name, "against": against, "slice": slice_name, "metric": metric}
            | paired(found, at(name), at(against), confidence)
            for name in compared
            if {name, against} <= set(protocol.variants)
        ]
        yield from corrected(entries)


def paired(found: Resampled, score: int, other: int, confidence: float) -> dict[str, float]:
    """How much a score is above another: `delta` and what follows it in the entries of `comparisons`, less `p_holm`."""
    users, items, both = (found.difference(score, other, over) for over in Over)
    draws = found.draws(score, other, over=Over.BOTH)
    return {
        "delta": users.value,
        "low": users.low,
        "high": users.high,
        "low_items": items.low,
        "high_items": items.high,
        "low_both": both.low,
        "high_both": both.high,
        **tested(users.value, draws, confidence=confidence),
    }
