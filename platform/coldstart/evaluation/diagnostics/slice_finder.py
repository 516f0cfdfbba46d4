"""Finds the slices of the evaluated rows on which the model ranks worst.

An attribute assigns every row to one of a few groups (train events of the item, length of the history, image or none).
A slice is one group, or the intersection of two groups of different attributes. Its rows are ranked among themselves,
and its GAUC is compared with that of all rows on the same resamples of users. Holm's correction counts every slice that
was tested, listed or not.

A slice of similar items is harder by nature, and so is one with few rows per user. The list shows where to look, not
why.

Legend: `n` rows, `u` users, `S` slices, `R` resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.evaluation.inference.intervals import bootstrap_p_value, holm, interval, resample_counts
from coldstart.metrics.clicks import UserRanking, rank_users

MIN_ROWS, MIN_USERS = 200, 30
"""Smaller slices are not tested: their metrics are noise, and every test costs the others power."""
MAX_SHARE = 0.9
"""A slice with a larger share of the rows is not tested: it hardly differs from all rows."""
MAX_LISTED = 12
UNKNOWN = -1


@dataclass(frozen=True)
class SliceAttribute:
    """An attribute that groups rows.

    Attributes:
        name: As shown in the report.
        groups: Name of each group.
        code: [n] group of each row; `UNKNOWN` if it belongs to none.
    """

    name: str
    groups: tuple[str, ...]
    code: NDArray[np.integer]


def binned_attribute(name: str, values: NDArray[Any], edges: Sequence[float], unit: str = "") -> SliceAttribute:
    """An attribute of numbers [n], binned at ascending `edges`; NaN belongs to no group."""
    shown = [f"{edge:g}{unit}" for edge in edges]
    inner = [f"{low} to below {high}" for low, high in pairwise(shown)]
    code = np.searchsorted(np.asarray(edges, np.float64), values, side="right")
    known = np.where(np.isnan(np.asarray(values, np.float64)), UNKNOWN, code)
    return SliceAttribute(name, (f"below {shown[0]}", *inner, f"{shown[-1]} and more"), known)


@dataclass(frozen=True)
class _Slice:
    conditions: tuple[tuple[str, str], ...]
    rows: NDArray[np.int64]
    aucs: UserRanking


def find_worst_slices(
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    score: NDArray[np.floating],
    attributes: Sequence[SliceAttribute],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Slices whose GAUC is below that of all rows, worst first. Each slice costs one sort of its rows.

    Args:
        user: [n] user of each row.
        label: [n] 0 or 1.
        score: [n] scores that rank the rows.
        attributes: Define the slices.
        confidence: Of the intervals; a slice is listed if its corrected p is below one minus this.
        resamples: `R`.
        seed: Of the resampling.

    Returns:
        `overall` GAUC (NaN if undefined), `tried` (number of slices) and `worst`: conditions (attribute -> group),
        rows, users, gauc, delta with low and high, p and p_holm. An intersection is listed only if it is worse than
        either of its groups.
    """
    whole = rank_users(user, label, score)
    found = list(_slices(user, label, score, attributes)) if len(whole.user) else []
    if not found:
        return {"overall": whole.mean, "tried": 0, "worst": []}
    draws = _differences(whole, [candidate.aucs for candidate in found], resamples, seed)
    deltas = np.array([candidate.aucs.mean - whole.mean for candidate in found])
    p = np.array([bootstrap_p_value(delta, drawn) for delta, drawn in zip(deltas, draws.T, strict=True)])
    corrected = holm(p)
    alone = {candidate.conditions: delta for candidate, delta in zip(found, deltas, strict=True)}
    listed = []
    for place in np.argsort(deltas, kind="stable"):
        candidate, delta = found[place], float(deltas[place])
        parts = [alone.get((condition,), np.inf) for condition in candidate.conditions]
        redundant = len(parts) > 1 and delta >= min(parts)
        if delta < 0 and corrected[place] < 1 - confidence and not redundant:
            span = interval(delta, draws[:, place], confidence=confidence)
            listed.append(
                {
                    "conditions": dict(candidate.conditions),
                    "rows": len(candidate.rows),
                    "users": len(candidate.aucs.user),
                    "gauc": candidate.aucs.mean,
                    "delta": delta,
                    "low": span.low,
                    "high": span.high,
                    "p": float(p[place]),
                    "p_holm": float(corrected[place]),
                }
            )
    return {"overall": whole.mean, "tried": len(found), "worst": listed[:MAX_LISTED]}


def _slices(
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    score: NDArray[np.floating],
    attributes: Sequence[SliceAttribute],
) -> Iterator[_Slice]:
    """All slices that are large enough; an intersection only if both of its groups are."""
    singles: list[list[_Slice]] = []
    min_rows, max_rows = MIN_ROWS, MAX_SHARE * len(user)

    def cut(conditions: tuple[tuple[str, str], ...], rows: NDArray[np.int64]) -> _Slice | None:
        if not min_rows <= len(rows) <= max_rows:
            return None
        aucs = rank_users(user[rows], label[rows], score[rows])
        return _Slice(conditions, rows, aucs) if len(aucs.user) >= MIN_USERS else None

    for attribute in attributes:
        groups = (
            cut(((attribute.name, name),), np.flatnonzero(attribute.code == code))
            for code, name in enumerate(attribute.groups)
        )
        singles.append([candidate for candidate in groups if candidate is not None])
        yield from singles[-1]
    for left, right in combinations(singles, 2):
        for one, other in product(left, right):
            rows = np.intersect1d(one.rows, other.rows, assume_unique=True)
            # If one condition implies the other, the intersection is no new slice.
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
        for counts in resample_counts(len(whole.user), resamples=resamples, seed=seed):
            gaucs = (counts @ sums) / (counts @ weights)
            drawn.append(gaucs[:, :-1] - gaucs[:, -1:])
    return np.concatenate(drawn)
