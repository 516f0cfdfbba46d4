"""Metrics from parts of the rows: what each part contributes, and how the parts are merged. Independent of the engine.

Rows are partitioned twice. Metrics per user need all rows of a user in one part (`user_metrics`). Metrics over all rows
need each variant's rows in ranges of the predicted probability, with equal probabilities in one range
(`range_metrics`): each range counts its own ordered pairs, and the pairs between ranges follow from the row counts. So
the results are exact, and no process needs more than one part. `compute_metrics` does everything in one process.

Legend: `n` rows, `K` variants, `M` scores, `S` slices, `G` groups (slices, then warm-up bins), `P` ranges, `u` users.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coldstart.config import UserError
from coldstart.evaluation.protocol.protocol import RAW, EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import SLICES
from coldstart.metrics.clicks import Reliability, UserRanking, bin_sums, losses, rank_users, sigmoid

Sums = dict[str, NDArray[np.float64]]
"""Arrays by name, which are summed over parts."""
HISTOGRAM_BINS = 20
"""Of the histograms of click probabilities."""
USER, ITEM, PRODUCT, TOP_K = range(4)
"""Kinds of rows of `user_metrics`: AUC by user, gradient by item, products of gradients, sums of NDCG and recall."""


def sample_probabilities(rows: ScoredRows, protocol: EvaluationProtocol, size: int = 512) -> NDArray[np.float64]:
    """[K, q] evenly spaced quantiles of a part's probabilities, from which the ranges are chosen."""
    levels = np.linspace(0, 1, min(size, len(rows)))
    sample = [np.quantile(sigmoid(rows.logits[name]), levels, method="nearest") for name in protocol.variants]
    return np.stack(sample)


def count_rows(rows: ScoredRows, protocol: EvaluationProtocol, cuts: NDArray[np.float64]) -> Sums:
    """Counts and sums that do not depend on the order of the rows.

    Args:
        rows: Any part of the rows.
        protocol: The metrics.
        cuts: [K, P - 1] ascending lower bounds of all ranges but the first.

    Returns:
        `clicked` and `skipped` [K, S, P]; `loss` [K, S] summed; `histogram` [K, S, 2, HISTOGRAM_BINS] of skips and
        clicks by probability; `rows` [G]; `non_finite` [K + item effects], the number of scores that are not finite.
    """
    shape = (len(protocol.variants), len(SLICES))
    sums = {name: np.zeros((*shape, cuts.shape[1] + 1)) for name in ("clicked", "skipped")}
    sums |= {"loss": np.zeros(shape), "histogram": np.zeros((*shape, 2, HISTOGRAM_BINS))}
    groups = protocol.members(rows)
    members = groups[: len(SLICES)]
    cold = members[SLICES.index("cold")]
    non_finite = [~np.isfinite(rows.logits[name]) for name in protocol.variants]
    non_finite += [~np.isfinite(rows.item_effect[name]) & cold for name in protocol.item_effect]
    clicked = rows.label > 0
    for k, name in enumerate(protocol.variants):
        p = sigmoid(np.nan_to_num(rows.logits[name]))
        loss = losses(rows.label, p)
        in_range = range_of(p, cuts[k])
        in_bin = np.minimum((p * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
        for s, member in enumerate(members):
            for c, kind in enumerate(("skipped", "clicked")):
                chosen = member & (clicked == bool(c))
                sums[kind][k, s] = np.bincount(in_range[chosen], minlength=cuts.shape[1] + 1)
                sums["histogram"][k, s, c] = np.bincount(in_bin[chosen], minlength=HISTOGRAM_BINS)
            sums["loss"][k, s] = loss[member].sum()
    return sums | {
        "rows": groups.sum(1).astype(np.float64),
        "non_finite": np.array([mask.sum() for mask in non_finite], float),
    }


def range_of(probability: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Range of each probability; equal ones are in the same range."""
    return np.searchsorted(cuts, probability, side="right")


def range_metrics(
    logit: NDArray[np.floating],
    label: NDArray[np.integer],
    members: NDArray[np.bool_],
    *,
    below: NDArray[np.float64],
    total: NDArray[np.float64],
    bins: int,
) -> Sums:
    """Ordered pairs and calibration bins of the rows in one range of one variant.

    Args:
        logit: [n].
        label: [n].
        members: [S, n].
        below: [S] rows in lower ranges.
        total: [S] rows in all ranges.
        bins: Number of calibration bins.

    Returns:
        `wins` [S], correctly ordered pairs of a click and a skip, ties as half, and `bins` [S, 3, bins].
    """
    sums = {"wins": np.zeros(len(members)), "bins": np.zeros((len(members), 3, bins))}
    for s, member in enumerate(members):
        y, x = label[member], logit[member]
        sums["wins"][s] = rank_users(np.zeros(len(y), np.int64), y, x).wins.sum()
        sums["bins"][s] = bin_sums(y, sigmoid(x), bins=bins, below=int(below[s]), total=int(total[s]))
    return sums


def user_metrics(rows: ScoredRows, protocol: EvaluationProtocol) -> pa.Table:
    """Contributions of users, from a part that has all rows of its users.

    Returns:
        Rows of group, kind, unit, weight and values [M]. USER: unit is the user, weight its rows, values its AUCs.
        ITEM: unit is the item, weight its rows, values its summed AUC gradients. PRODUCT: unit is a score, values the
        summed products of its gradients with those of all scores. TOP_K: units 0 and 1 are NDCG and recall, values
        their sums over users (raw scores only), weight the users left out.
    """
    values = list(protocol.values(rows))
    orders = [np.lexsort((score, rows.user_idx)) for score in values]
    parts = []
    for g, member in enumerate(protocol.members(rows)):
        auc: list[NDArray[np.float64]] = []
        auc_gradient, top_k = np.zeros((len(values), len(rows))), np.zeros((2, len(values)))
        for m, (score, order) in enumerate(zip(values, orders, strict=True)):
            if not protocol.is_measured(m, g):
                auc.append(np.full_like(auc[0], np.nan))
                continue
            at = order[member[order]]
            ranking = UserRanking(rows.user_idx[at], rows.label[at], score[at])
            auc.append(ranking.auc)
            auc_gradient[m, at[ranking.kept]] = ranking.auc_gradient
            if protocol.scores[m][0] == RAW:
                top_k[:, m] = ranking.ndcg(protocol.top_k).sum(), ranking.recall(protocol.top_k).sum()
        ranked = at[ranking.kept]
        auc_gradient = auc_gradient[:, ranked]
        item, of = np.unique(rows.item_idx[ranked], return_inverse=True)
        by_item = np.stack([np.bincount(of, weights=each, minlength=len(item)) for each in auc_gradient])
        parts += [
            _part(g, USER, ranking.user, ranking.weight, np.stack(auc)),
            _part(g, ITEM, item, np.bincount(of, minlength=len(item)), by_item),
            _part(g, PRODUCT, np.arange(len(values)), np.zeros(len(values)), auc_gradient @ auc_gradient.T),
            _part(g, TOP_K, np.arange(2), np.full(2, ranking.left_out), top_k.T),
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
    count = len(unit)
    flat = pa.array(values.T.astype(np.float64).ravel())
    return pa.table(
        {
            "group": np.full(count, group, np.int16),
            "kind": np.full(count, kind, np.int8),
            "unit": unit.astype(np.int64),
            "weight": weight.astype(np.float64),
            "values": pa.FixedSizeListArray.from_arrays(flat, len(values)),
        }
    )


@dataclass(frozen=True)
class GroupRanking:
    """Ranking statistics of one group of rows. Users with one class only are left out.

    Attributes:
        weight: [u] rows of each user.
        auc: [M, u] AUCs, NaN for a score that this group does not measure.
        item_rows: [i] rows of each item.
        pull: [M, i] sums over each item's rows of `UserRanking.auc_gradient`.
        product: [M, M] sums over rows of products of AUC gradients.
        ndcg: [M] mean NDCG@K over users; NaN for scores that are not raw.
        recall: [M] mean Recall@K over users.
        left_out: Users with one class only.
    """

    weight: NDArray[np.float64]
    auc: NDArray[np.float64]
    item_rows: NDArray[np.float64]
    auc_gradient: NDArray[np.float64]
    gradient_products: NDArray[np.float64]
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
    def merge(cls, table: pa.Table) -> "GroupRanking":
        """Merges the rows of one group of `user_metrics` of all parts."""
        kind, unit, weight = (np.asarray(table[name]) for name in ("kind", "unit", "weight"))
        values = np.asarray(table["values"].combine_chunks().flatten()).reshape(len(table), -1)

        def added(which: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            chosen = np.flatnonzero(kind == which)
            units, of = np.unique(unit[chosen], return_inverse=True)
            sums = np.zeros((len(units), values.shape[1]))
            np.add.at(sums, of, values[chosen])
            return np.bincount(of, weights=weight[chosen], minlength=len(units)).astype(np.float64), sums

        user_rows, auc = added(USER)
        item_rows, auc_gradient = added(ITEM)
        left_out, top_k = added(TOP_K)
        users = max(len(user_rows), 1)
        ndcg, recall = top_k / users if len(user_rows) else np.full_like(top_k, np.nan)
        return cls(user_rows, auc.T, item_rows, auc_gradient.T, added(PRODUCT)[1], ndcg, recall, int(left_out[0]))


@dataclass(frozen=True)
class MergedMetrics:
    """All sums that metrics and intervals are computed from; much smaller than the rows.

    Attributes:
        protocol: The metrics.
        rows: [G] rows of each group.
        clicked: [S] rows with a click.
        skipped: [S] rows without a click.
        loss: [K, S] summed log loss.
        wins: [K, S] correctly ordered pairs of a click and a skip, ties as half.
        bins: [K, S, 3, bins] for `Reliability.from_sums`.
        histogram: [K, S, 2, LEVELS] skips and clicks by probability.
        ranks: Group -> ranking statistics.
    """

    protocol: EvaluationProtocol
    rows: NDArray[np.float64]
    clicked: NDArray[np.float64]
    skipped: NDArray[np.float64]
    loss: NDArray[np.float64]
    wins: NDArray[np.float64]
    bins: NDArray[np.float64]
    histogram: NDArray[np.float64]
    ranks: Mapping[str, GroupRanking]

    @classmethod
    def merge(cls, protocol: EvaluationProtocol, counts: Sums, ranges: Sums, users: pa.Table) -> "MergedMetrics":
        """Merges the contributions of all parts.

        Args:
            protocol: The metrics.
            counts: Sum of `count_rows` over parts.
            ranges: `wins` [K, S] within ranges and `bins` [K, S, 3, bins], summed over `range_metrics`.
            users: Rows of `user_metrics` of all parts.
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
            {name: GroupRanking.merge(users.filter(pa.array(group == g))) for g, name in enumerate(protocol.groups)},
        )

    def auc(self, variant: str, slice_name: str) -> float:
        """AUC over all rows of a slice; NaN if one class is missing."""
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


def check_finite(counts: Sums, protocol: EvaluationProtocol) -> None:
    """Checks that all scores are finite.

    Raises:
        UserError: a variant has scores that are NaN or infinite.
    """
    named = [("logits", name) for name in protocol.variants] + [("item_effect", name) for name in protocol.item_effect]
    total = (counts["clicked"] + counts["skipped"])[0].sum(-1)
    for (kind, name), invalid in zip(named, counts["non_finite"], strict=True):
        if invalid:
            count = total[SLICES.index("cold" if kind == "item_effect" else "all")]
            raise UserError(
                f"variant '{name}': {invalid:.0f} of {count:.0f} {kind} are not finite; its slot table or the ranker "
                "holds NaN or infinity. Train that stage again with a lower learning rate"
            )


def compute_metrics(rows: ScoredRows, protocol: EvaluationProtocol) -> MergedMetrics:
    """All metrics in one process: the reference for computing them from parts.

    Raises:
        UserError: a variant has scores that are NaN or infinite.
    """
    counts = count_rows(rows, protocol, np.zeros((len(protocol.variants), 0)))
    check_finite(counts, protocol)
    members = protocol.members(rows)[: len(SLICES)]
    below, total = np.zeros(len(SLICES)), (counts["clicked"] + counts["skipped"])[0].sum(-1)
    ranges = [
        range_metrics(rows.logits[name], rows.label, members, below=below, total=total, bins=protocol.bins)
        for name in protocol.variants
    ]
    merged = {kind: np.stack([part[kind] for part in ranges]) for kind in ranges[0]}
    return MergedMetrics.merge(protocol, counts, merged, user_metrics(rows, protocol))
