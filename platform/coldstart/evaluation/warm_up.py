"""The warm-up curve: how well items rank by the clicks they had in training, and from when their own ID is best."""

from collections.abc import Mapping, Sequence
from typing import Any

from coldstart.evaluation.comparisons import METRICS
from coldstart.evaluation.intervals import Interval
from coldstart.evaluation.protocol import BY_ITEM, Protocol, warm_up_group
from coldstart.evaluation.resampling import Over, Resampled

SHOWN = ("oov", "mlp_map", "coarse", "fine", "joint", "id", "release")
OWN = "id"
FEWEST = 10
"""Users and items that a bin needs; below, chance alone makes AUCs of 0 and 1."""


def warm_up(protocol: Protocol, resampled: Mapping[str, Resampled], rows: Sequence[int]) -> dict[str, Any]:
    """GAUC per bin of train clicks, with intervals over users and items.

    Args:
        protocol: Names scores and bins.
        resampled: Bin -> its resamples.
        rows: [W] rows of each bin.

    Returns:
        `edges` and `rows` [W]; `gauc[variant]` and `gauc_item[variant]` [W] of value, low, high, or None where users
        or items are fewer than FEWEST; `id_minus[variant]` [W], how much item GAUC the ID row has above the variant on
        the same resamples; and `takes_over[variant]`, the clicks from which the ID row is the better one, or None.
    """
    found = [resampled[warm_up_group(edge)] for edge in protocol.edges]
    bins = [each if min(each.users, each.items) >= FEWEST else None for each in found]
    shown = [name for name in SHOWN if name in protocol.variants]
    curve: dict[str, Any] = {"edges": list(protocol.edges), "rows": list(rows)}
    for metric, way in METRICS.items():
        places = {name: protocol.scores.index((way, name)) for name in shown}
        curve[metric] = {
            name: [None if each is None else _figures(each.single(at, Over.BOTH)) for each in bins]
            for name, at in places.items()
        }
    if OWN not in shown:
        return curve | {"id_minus": {}, "takes_over": {}}
    own = protocol.scores.index((BY_ITEM, OWN))
    leads = {
        name: [
            None if each is None else each.difference(own, protocol.scores.index((BY_ITEM, name)), Over.BOTH)
            for each in bins
        ]
        for name in shown
        if name != OWN
    }
    return curve | {
        "id_minus": {
            name: [None if lead is None else _figures(lead) for lead in found] for name, found in leads.items()
        },
        "takes_over": {name: takes_over(protocol.edges, found) for name, found in leads.items()},
    }


def takes_over(edges: Sequence[int], leads: Sequence[Interval | None]) -> int | None:
    """The first edge from which the ID row leads by more than its interval, and never falls behind by as much later."""
    found = None
    for edge, lead in zip(edges, leads, strict=True):
        if lead is None:
            continue
        if lead.high < 0:
            found = None
        elif lead.low > 0 and found is None:
            found = edge
    return found


def _figures(found: Interval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
