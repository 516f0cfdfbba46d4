"""Pairwise tests of variants: paired differences with intervals, corrected p-values and power."""

from collections.abc import Iterator, Mapping
from typing import Any

from coldstart.evaluation.inference.intervals import difference_test, holm_corrected
from coldstart.evaluation.inference.two_way_bootstrap import ResampleUnit, TwoWayBootstrap
from coldstart.evaluation.protocol.protocol import MINUS_OOV, RAW, EvaluationProtocol
from coldstart.evaluation.protocol.slices import SLICES
from coldstart.evaluation.protocol.variants import compared_variants

METRICS = {"gauc": RAW, "gauc_item": MINUS_OOV}


def pairwise_tests(
    protocol: EvaluationProtocol, resampled: Mapping[str, TwoWayBootstrap], *, confidence: float
) -> list[dict[str, Any]]:
    """One entry per slice, metric and pair.

    Args:
        protocol: Defines the scores.
        resampled: Slice -> its bootstrap.
        confidence: Of the tests, for their power.

    Returns:
        Entries of `variant`, `against`, `slice`, `metric`, `delta`; `low`, `high` over users, `low_items`,
        `high_items` over items, `low_both`, `high_both` over both; and from the latter `p`, `p_holm` and `mde`, the
        minimum detectable effect at 80 % power. `p` is NaN if two variants score every row equally.
    """
    return [
        entry
        for name in SLICES
        for metric in METRICS
        for entry in _family(protocol, resampled[name], name, metric, confidence)
    ]


def _family(
    protocol: EvaluationProtocol, found: TwoWayBootstrap, slice_name: str, metric: str, confidence: float
) -> Iterator[dict[str, Any]]:
    def at(name: str) -> int:
        return protocol.scores.index((METRICS[metric], name))

    for against, compared in compared_variants(protocol.variants, protocol.headline).items():
        entries = [
            {"variant": name, "against": against, "slice": slice_name, "metric": metric}
            | paired_difference(found, at(name), at(against), confidence)
            for name in compared
        ]
        yield from holm_corrected(entries)


def paired_difference(found: TwoWayBootstrap, score: int, other: int, confidence: float) -> dict[str, float]:
    """Difference of two scores: `delta` and the keys after it in `pairwise_tests`, without `p_holm`."""
    users, items, both = (found.difference(score, other, over) for over in ResampleUnit)
    draws = found.draws(score, other, over=ResampleUnit.BOTH)
    return {
        "delta": users.value,
        "low": users.low,
        "high": users.high,
        "low_items": items.low,
        "high_items": items.high,
        "low_both": both.low,
        "high_both": both.high,
        **difference_test(users.value, draws, confidence=confidence),
    }
