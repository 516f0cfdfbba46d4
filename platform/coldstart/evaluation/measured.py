"""Measuring in parts: what one part of the rows contributes, and how parts become figures. Any engine may run them.

Rows are parted twice. Figures per user need all rows of a user in one part (`measure_users`). Figures over all rows
need each variant's rows in ranges of its probability, equal ones in one range (`measure_range`): a range counts its own
ordered pairs, and pairs between ranges follow from how many rows each holds. So nothing is approximated, and no process
needs more than one part. `measure` is the whole in one process.

Legend: `n` rows, `K` variants, `M` scores, `S` slices, `G` groups (slices, then warm-up bins), `P` ranges, `u` users.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coldstart.config import UserError
from coldstart.evaluation.metrics import Reliability, UserRanking, bin_sums, losses, rank_users, sigmoid
from coldstart.evaluation.protocol import SERVED, Protocol
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.slices import SLICES

Sums = dict[str, NDArray[np.float64]]
"""Arrays by name; those of several parts are added up."""
LEVELS = 20
"""Bars of a histogram of click probabilities."""
USER, ITEM, PRODUCT, TOP = range(4)
"""Kinds of rows of a user part: AUC of a user, pull of an item, products of pulls, and sums of NDCG and recall."""


def sample_probabilities(rows: ScoredRows, protocol: Protocol, most: int = 512) -> NDArray[np.float64]:
    """[K, q] evenly spaced probabilities of a part, from which ranges are cut."""
    places = np.linspace(0, 1, min(most, len(rows)))
    found = [np.quantile(sigmoid(rows.logits[name]), places, method="nearest") for name in protocol.variants]
    return np.stack(found)


def count_rows(rows: ScoredRows, protocol: Protocol, cuts: NDArray[np.float64]) -> Sums:
    """What needs no order of the rows.

    Args:
        rows: Any part of them.
        protocol: What is measured.
        cuts: [K, P - 1] ascending; a range begins at each.

    Returns:
        `clicked` and `skipped` [K, S, P]; `loss` [K, S] summed; `histogram` [K, S, 2, LEVELS] of skips and clicks by
        probability; `rows` [G]; `broken` [K + appeals] scores that are not finite.
    """
    shape = (len(protocol.variants), len(SLICES))
    found = {name: np.zeros((*shape, cuts.shape[1] + 1)) for name in ("clicked", "skipped")}
    found |= {"loss": np.zeros(shape), "histogram": np.zeros((*shape, 2, LEVELS))}
    everyone = protocol.members(rows)
    members = everyone[: len(SLICES)]
    cold = members[SLICES.index("cold")]
    broken = [~np.isfinite(rows.logits[name]) for name in protocol.variants]
    broken += [~np.isfinite(rows.appeal[name]) & cold for name in protocol.appeal]
    clicked = rows.label > 0
    for k, name in enumerate(protocol.variants):
        p = sigmoid(np.nan_to_num(rows.logits[name]))
        loss = losses(rows.label, p)
        place = range_of(p, cuts[k])
        level = np.minimum((p * LEVELS).astype(np.int64), LEVELS - 1)
        for s, member in enumerate(members):
            for c, kind in enumerate(("skipped", "clicked")):
                mine = member & (clicked == bool(c))
                found[kind][k, s] = np.bincount(place[mine], minlength=cuts.shape[1] + 1)
                found["histogram"][k, s, c] = np.bincount(level[mine], minlength=LEVELS)
            found["loss"][k, s] = loss[member].sum()
    return found | {
        "rows": everyone.sum(1).astype(np.float64),
        "broken": np.array([mask.sum() for mask in broken], float),
    }


def range_of(probability: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Range of each probability; equal ones share it."""
    return np.searchsorted(cuts, probability, side="right")


def measure_range(
    logit: NDArray[np.floating],
    label: NDArray[np.integer],
    members: NDArray[np.bool_],
    *,
    below: NDArray[np.float64],
    total: NDArray[np.float64],
    bins: int,
) -> Sums:
    """What the rows of one range of one variant say among themselves.

    Args:
        logit: [n].
        label: [n].
        members: [S, n].
        below: [S] rows in lower ranges.
        total: [S] rows in all ranges.
        bins: Of calibration.

    Returns:
        `wins` [S] pairs of a click and a skip in the right order, ties as half, and `bins` [S, 3, bins].
    """
    found = {"wins": np.zeros(len(members)), "bins": np.zeros((len(members), 3, bins))}
    for s, member in enumerate(members):
        y, x = label[member], logit[member]
        found["wins"][s] = rank_users(np.zeros(len(y), np.int64), y, x).wins.sum()
        found["bins"][s] = bin_sums(y, sigmoid(x), bins=bins, below=int(below[s]), total=int(total[s]))
    return found


def measure_users(rows: ScoredRows, protocol: Protocol) -> pa.Table:
    """What users say, for rows that hold everything of each of their users.

    Returns:
        Rows of group, kind, unit, weight and values [M]. USER: unit is the user, weight its rows, values its AUCs.
        ITEM: unit is the item, weight its rows, values its summed pulls. PRODUCT: unit is a score, values the summed
        products of its pulls with those of all scores. TOP: units 0 and 1 are NDCG and recall, values their sums over
        users (served scores only), weight the users left out.
    """
    values = list(protocol.values(rows))
    orders = [np.lexsort((score, rows.user_idx)) for score in values]
    parts = []
    for g, member in enumerate(protocol.members(rows)):
        auc: list[NDArray[np.float64]] = []
        pull, top = np.zeros((len(values), len(rows))), np.zeros((2, len(values)))
        for m, (score, order) in enumerate(zip(values, orders, strict=True)):
            if not protocol.asked(m, g):
                auc.append(np.full_like(auc[0], np.nan))
                continue
            at = order[member[order]]
            ranking = UserRanking(rows.user_idx[at], rows.label[at], score[at])
            auc.append(ranking.auc)
            pull[m, at[ranking.kept]] = ranking.pull
            if protocol.scores[m][0] == SERVED:
                top[:, m] = ranking.ndcg(protocol.top).sum(), ranking.recall(protocol.top).sum()
        ranked = at[ranking.kept]
        pull = pull[:, ranked]
        item, of = np.unique(rows.item_idx[ranked], return_inverse=True)
        by_item = np.stack([np.bincount(of, weights=each, minlength=len(item)) for each in pull])
        parts += [
            _part(g, USER, ranking.user, ranking.weight, np.stack(auc)),
            _part(g, ITEM, item, np.bincount(of, minlength=len(item)), by_item),
            _part(g, PRODUCT, np.arange(len(values)), np.zeros(len(values)), pull @ pull.T),
            _part(g, TOP, np.arange(2), np.full(2, ranking.left_out), top.T),
        ]
    return pa.concat_tables(parts)


def _part(
    group: int,
    kind: int,
    unit: NDArray[np.integer],
    weight: NDArray[np.generic],
    values: NDArray[np.generic],
) -> pa.Table:
    """Values are [M, units]."""
    many = len(unit)
    flat = pa.array(values.T.astype(np.float64).ravel())
    return pa.table(
        {
            "group": np.full(many, group, np.int16),
            "kind": np.full(many, kind, np.int8),
            "unit": unit.astype(np.int64),
            "weight": weight.astype(np.float64),
            "values": pa.FixedSizeListArray.from_arrays(flat, len(values)),
        }
    )


@dataclass(frozen=True)
class Ranks:
    """How users' rows of one group are ranked; users with one class only are left out.

    Attributes:
        weight: [u] rows of each user.
        auc: [M, u] AUCs, NaN for a score that is not measured on this group.
        item_rows: [i] rows of each item.
        pull: [M, i] summed pulls of each item's rows (`UserRanking.pull`).
        product: [M, M] summed products of the rows' pulls.
        ndcg: [M] mean NDCG@K over users; NaN for scores that are not served.
        recall: [M] mean Recall@K over users.
        left_out: Users with one class only.
    """

    weight: NDArray[np.float64]
    auc: NDArray[np.float64]
    item_rows: NDArray[np.float64]
    pull: NDArray[np.float64]
    product: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    recall: NDArray[np.float64]
    left_out: int

    @property
    def gauc(self) -> NDArray[np.float64]:
        """[M] mean AUC weighted by impressions, NaN without users."""
        if not len(self.weight):
            return np.full(len(self.auc), np.nan)
        return np.asarray(np.average(self.auc, weights=self.weight, axis=1))

    @classmethod
    def merge(cls, table: pa.Table) -> "Ranks":
        """From the rows of one group of `measure_users`, over all parts."""
        kind, unit, weight = (np.asarray(table[name]) for name in ("kind", "unit", "weight"))
        values = np.asarray(table["values"].combine_chunks().flatten()).reshape(len(table), -1)

        def added(which: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            mine = np.flatnonzero(kind == which)
            units, of = np.unique(unit[mine], return_inverse=True)
            sums = np.zeros((len(units), values.shape[1]))
            np.add.at(sums, of, values[mine])
            return np.bincount(of, weights=weight[mine], minlength=len(units)).astype(np.float64), sums

        user_rows, auc = added(USER)
        item_rows, pull = added(ITEM)
        left_out, top = added(TOP)
        users = max(len(user_rows), 1)
        ndcg, recall = top / users if len(user_rows) else np.full_like(top, np.nan)
        return cls(user_rows, auc.T, item_rows, pull.T, added(PRODUCT)[1], ndcg, recall, int(left_out[0]))


@dataclass(frozen=True)
class Measured:
    """Everything that figures and intervals are made from; small beside the rows.

    Attributes:
        protocol: What was measured.
        rows: [G] rows of each group.
        clicked: [S] rows with a click.
        skipped: [S] rows without.
        loss: [K, S] summed log loss.
        wins: [K, S] pairs of a click and a skip in the right order, ties as half.
        bins: [K, S, 3, bins] for `Reliability.from_sums`.
        histogram: [K, S, 2, LEVELS] skips and clicks by probability.
        ranks: Group -> users.
    """

    protocol: Protocol
    rows: NDArray[np.float64]
    clicked: NDArray[np.float64]
    skipped: NDArray[np.float64]
    loss: NDArray[np.float64]
    wins: NDArray[np.float64]
    bins: NDArray[np.float64]
    histogram: NDArray[np.float64]
    ranks: Mapping[str, Ranks]

    @classmethod
    def merge(cls, protocol: Protocol, counts: Sums, ranges: Sums, users: pa.Table) -> "Measured":
        """From added up `count_rows`, `measure_range` of all ranges by variant, and `measure_users` of all parts.

        Args:
            protocol: What was measured.
            counts: As `count_rows`.
            ranges: `wins` [K, S] within ranges and `bins` [K, S, 3, bins].
            users: As `measure_users`.
        """
        clicked, skipped = counts["clicked"], counts["skipped"]
        below = np.cumsum(skipped, axis=-1) - skipped
        group = np.asarray(users["group"])
        return cls(
            protocol,
            counts["rows"],
            clicked[0].sum(-1),
            skipped[0].sum(-1),
            counts["loss"],
            ranges["wins"] + (clicked * below).sum(-1),
            ranges["bins"],
            counts["histogram"],
            {name: Ranks.merge(users.filter(pa.array(group == g))) for g, name in enumerate(protocol.groups)},
        )

    def auc(self, variant: str, slice_name: str) -> float:
        """AUC over all rows of a slice, NaN where one class is missing."""
        k, s = self._at(variant, slice_name)
        pairs = self.clicked[s] * self.skipped[s]
        return float(self.wins[k, s] / pairs) if pairs else float("nan")

    def logloss(self, variant: str, slice_name: str) -> float:
        """Mean log loss of a slice, NaN without rows."""
        k, s = self._at(variant, slice_name)
        rows = self.clicked[s] + self.skipped[s]
        return float(self.loss[k, s] / rows) if rows else float("nan")

    def reliability(self, variant: str, slice_name: str) -> Reliability:
        """Predicted and observed click rates of a slice."""
        return Reliability.from_sums(self.bins[self._at(variant, slice_name)])

    def _at(self, variant: str, slice_name: str) -> tuple[int, int]:
        return self.protocol.variants.index(variant), SLICES.index(slice_name)


def check_finite(counts: Sums, protocol: Protocol) -> None:
    """Refuses scores that no metric is defined on.

    Raises:
        UserError: a variant scored a row with something that is not a number.
    """
    named = [("logits", name) for name in protocol.variants] + [("appeal", name) for name in protocol.appeal]
    total = (counts["clicked"] + counts["skipped"])[0].sum(-1)
    for (kind, name), bad in zip(named, counts["broken"], strict=True):
        if bad:
            read = total[SLICES.index("cold" if kind == "appeal" else "all")]
            raise UserError(
                f"variant '{name}': {bad:.0f} of {read:.0f} {kind} are not finite; its slot table or the ranker holds "
                "NaN or infinity, train that stage again with a lower learning rate"
            )


def measure(rows: ScoredRows, protocol: Protocol) -> Measured:
    """Measures rows that one process holds: the reference for measuring in parts.

    Raises:
        UserError: a variant scored a row with something that is not a number.
    """
    counts = count_rows(rows, protocol, np.zeros((len(protocol.variants), 0)))
    check_finite(counts, protocol)
    members = protocol.members(rows)[: len(SLICES)]
    nothing, total = np.zeros(len(SLICES)), (counts["clicked"] + counts["skipped"])[0].sum(-1)
    ranges = [
        measure_range(rows.logits[name], rows.label, members, below=nothing, total=total, bins=protocol.bins)
        for name in protocol.variants
    ]
    whole = {kind: np.stack([part[kind] for part in ranges]) for kind in ranges[0]}
    return Measured.merge(protocol, counts, whole, measure_users(rows, protocol))
