"""The warm-up curve: ranking quality by train clicks of the item, and where its own ID row becomes the best."""

from collections.abc import Mapping, Sequence
from typing import Any

from coldstart.evaluation.inference.intervals import Interval
from coldstart.evaluation.inference.pairwise_tests import METRICS
from coldstart.evaluation.inference.two_way_bootstrap import ResampleUnit, TwoWayBootstrap
from coldstart.evaluation.protocol.protocol import MINUS_OOV, EvaluationProtocol, warm_up_group
from coldstart.evaluation.protocol.variants import ORACLES, OWN_ID

MIN_UNITS = 10
"""Users and items that a bin needs; with fewer, AUCs of 0 and 1 occur by chance."""


def warm_up_curve(
    protocol: EvaluationProtocol, resampled: Mapping[str, TwoWayBootstrap], rows: Sequence[int]
) -> dict[str, Any]:
    """GAUC per bin of train clicks, with intervals over users and items.

    Args:
        protocol: Defines scores and bins.
        resampled: Bin -> its bootstrap.
        rows: [W] rows of each bin.

    Returns:
        `edges` and `rows` [W]; `gauc[variant]` and `gauc_item[variant]` [W] of value, low, high, or None with fewer
        than MIN_UNITS users or items; `id_minus[variant]` [W], item GAUC of the ID row minus that of the variant, on
        the same resamples; and `crossover_clicks[variant]`, the clicks from which the ID row is better, or None.
    """
    found = [resampled[warm_up_group(edge)] for edge in protocol.edges]
    bins = [each if min(each.users, each.items) >= MIN_UNITS else None for each in found]
    shown = [name for name in protocol.variants if name not in ORACLES]
    curve: dict[str, Any] = {"edges": list(protocol.edges), "rows": list(rows)}
    for metric, kind in METRICS.items():
        indices = {name: protocol.scores.index((kind, name)) for name in shown}
        curve[metric] = {
            name: [None if each is None else _with_interval(each.single(at, ResampleUnit.BOTH)) for each in bins]
            for name, at in indices.items()
        }
    if OWN_ID not in shown:
        return curve | {"id_minus": {}, "crossover_clicks": {}}
    own = protocol.scores.index((MINUS_OOV, OWN_ID))
    leads = {
        name: [
            None if each is None else each.difference(own, protocol.scores.index((MINUS_OOV, name)), ResampleUnit.BOTH)
            for each in bins
        ]
        for name in shown
        if name != OWN_ID
    }
    return curve | {
        "id_minus": {
            name: [None if lead is None else _with_interval(lead) for lead in found] for name, found in leads.items()
        },
        "crossover_clicks": {name: crossover_clicks(protocol.edges, found) for name, found in leads.items()},
    }


def crossover_clicks(edges: Sequence[int], leads: Sequence[Interval | None]) -> int | None:
    """The first edge from which the ID row is better by more than the interval, and never worse by as much later."""
    found = None
    for edge, lead in zip(edges, leads, strict=True):
        if lead is None:
            continue
        if lead.high < 0:
            found = None
        elif lead.low > 0 and found is None:
            found = edge
    return found


def _with_interval(found: Interval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
