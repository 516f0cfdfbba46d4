"""Where the model is worst: a search through segments of the evaluated rows.

A facet puts every row into one of a few groups (train events of the item, length of the history, picture or none). A
segment is one group, or what two groups of different facets have in common. Its rows are ranked among themselves, its
GAUC is compared with that of all rows on the same resamples of users, and every segment that was looked at counts as a
comparison for Holm's correction, listed or not.

A segment of much alike items is harder by nature, and so is one with few rows of each user; the list says where to
look, not why.

Legend: `n` rows, `u` users, `S` segments, `R` resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.evaluation.intervals import draw_counts, holm, interval, p_value
from coldstart.evaluation.metrics import UserRanking, rank_users

MIN_ROWS, MIN_USERS = 200, 30
"""Smaller segments are not looked at: their figures are noise and every try costs the others power."""
WHOLE = 0.9
"""A segment with a larger share of the rows is the whole, not a part."""
MOST = 12
"""Segments listed."""
UNKNOWN = -1


@dataclass(frozen=True)
class Facet:
    """A way of putting rows into groups.

    Attributes:
        name: What it is about, for people.
        groups: Name of each group.
        code: [n] group of each row; `UNKNOWN` rows are in none.
    """

    name: str
    groups: tuple[str, ...]
    code: NDArray[np.integer]


def ranges(name: str, values: NDArray[Any], edges: Sequence[float], unit: str = "") -> Facet:
    """A facet of numbers cut at ascending `edges`; rows whose value [n] is NaN are in no group."""
    shown = [f"{edge:g}{unit}" for edge in edges]
    inner = [f"{low} to below {high}" for low, high in pairwise(shown)]
    code = np.searchsorted(np.asarray(edges, np.float64), values, side="right")
    known = np.where(np.isnan(np.asarray(values, np.float64)), UNKNOWN, code)
    return Facet(name, (f"below {shown[0]}", *inner, f"{shown[-1]} and more"), known)


@dataclass(frozen=True)
class _Segment:
    conditions: tuple[tuple[str, str], ...]
    rows: NDArray[np.int64]
    aucs: UserRanking


def worst_segments(
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    score: NDArray[np.floating],
    facets: Sequence[Facet],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Segments whose GAUC lies below that of all rows, worst first. Costs one sort of its rows per segment.

    Args:
        user: [n] user of each row.
        label: [n] 0 or 1.
        score: [n] what rows are ranked by.
        facets: Ways to cut the rows.
        confidence: Of the intervals; a segment is listed when its corrected p is below one minus this.
        resamples: `R`.
        seed: Of the resampling.

    Returns:
        `overall` GAUC (NaN where not defined), `tried` (number of segments) and `worst`: conditions (facet -> group),
        rows, users, gauc, delta with low and high, p and p_holm. A pair is listed only where it is worse than either
        of its conditions alone.
    """
    whole = rank_users(user, label, score)
    found = list(_segments(user, label, score, facets)) if len(whole.user) else []
    if not found:
        return {"overall": whole.mean, "tried": 0, "worst": []}
    draws = _differences(whole, [segment.aucs for segment in found], resamples, seed)
    deltas = np.array([segment.aucs.mean - whole.mean for segment in found])
    p = np.array([p_value(delta, drawn) for delta, drawn in zip(deltas, draws.T, strict=True)])
    corrected = holm(p)
    alone = {segment.conditions: delta for segment, delta in zip(found, deltas, strict=True)}
    listed = []
    for place in np.argsort(deltas, kind="stable"):
        segment, delta = found[place], float(deltas[place])
        parts = [alone.get((condition,), np.inf) for condition in segment.conditions]
        redundant = len(parts) > 1 and delta >= min(parts)
        if delta < 0 and corrected[place] < 1 - confidence and not redundant:
            span = interval(delta, draws[:, place], confidence=confidence)
            listed.append(
                {
                    "conditions": dict(segment.conditions),
                    "rows": len(segment.rows),
                    "users": len(segment.aucs.user),
                    "gauc": segment.aucs.mean,
                    "delta": delta,
                    "low": span.low,
                    "high": span.high,
                    "p": float(p[place]),
                    "p_holm": float(corrected[place]),
                }
            )
    return {"overall": whole.mean, "tried": len(found), "worst": listed[:MOST]}


def _segments(
    user: NDArray[np.integer], label: NDArray[np.integer], score: NDArray[np.floating], facets: Sequence[Facet]
) -> Iterator[_Segment]:
    """All segments large enough to be looked at; a pair only where both of its groups are."""
    singles: list[list[_Segment]] = []
    fewest, most = MIN_ROWS, WHOLE * len(user)

    def cut(conditions: tuple[tuple[str, str], ...], rows: NDArray[np.int64]) -> _Segment | None:
        if not fewest <= len(rows) <= most:
            return None
        aucs = rank_users(user[rows], label[rows], score[rows])
        return _Segment(conditions, rows, aucs) if len(aucs.user) >= MIN_USERS else None

    for facet in facets:
        groups = (
            cut(((facet.name, name),), np.flatnonzero(facet.code == code)) for code, name in enumerate(facet.groups)
        )
        singles.append([segment for segment in groups if segment is not None])
        yield from singles[-1]
    for left, right in combinations(singles, 2):
        for one, other in product(left, right):
            rows = np.intersect1d(one.rows, other.rows, assume_unique=True)
            # What one condition implies of the other is no segment of its own.
            if len(rows) < min(len(one.rows), len(other.rows)):
                pair = cut(one.conditions + other.conditions, rows)
                if pair is not None:
                    yield pair


def _differences(whole: UserRanking, parts: Sequence[UserRanking], resamples: int, seed: int) -> NDArray[np.float64]:
    """[R, S] GAUC of each part less that of the whole, on the same resamples of the whole's users."""
    sums, weights = np.zeros((2, len(whole.user), len(parts) + 1))
    for place, aucs in enumerate((*parts, whole)):
        at = np.searchsorted(whole.user, aucs.user)
        sums[at, place], weights[at, place] = aucs.auc * aucs.weight, aucs.weight
    drawn = []
    with np.errstate(invalid="ignore"):
        for counts in draw_counts(len(whole.user), resamples=resamples, seed=seed):
            gaucs = (counts @ sums) / (counts @ weights)
            drawn.append(gaucs[:, :-1] - gaucs[:, -1:])
    return np.concatenate(drawn)
