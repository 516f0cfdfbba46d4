"""Compares a candidate with the champion on the same rows: paired difference of a metric, bootstrap over users.

Every scorer version has the rows that it was evaluated on, with the logits that it would have served. Two versions
that were evaluated on one dataset scored the same events, so their difference does not contain the variance that the
events cause in both.

Legend: `n` rows, `u` users.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation, Gate
from coldstart.evaluation.inference.intervals import interval, resample
from coldstart.evaluation.protocol.protocol import DIGITS
from coldstart.evaluation.protocol.slices import slices
from coldstart.methods.base import SCORER
from coldstart.metrics.clicks import losses, rank_users, sigmoid
from coldstart.registry.registry import Registry
from coldstart.registry.scored_rows import OOV_LOGIT, RELEASE_LOGIT, download_scored_rows
from coldstart.registry.version_tags import DATASET, REPLAYED_ROWS

_SEED = 17


@dataclass(frozen=True)
class PairedDifference:
    """The metrics of two versions on the same rows.

    Attributes:
        value: The candidate's.
        champion_value: The champion's.
        ci_low: Lower end of the confidence interval of the difference, candidate minus champion.
        ci_high: Its upper end.
        rows: Number of rows that both scored.
    """

    value: float
    champion_value: float
    ci_low: float
    ci_high: float
    rows: int


def compare_with_champion(registry: Registry, candidate: int, champion: int, gate: Gate) -> PairedDifference | None:
    """Compares two scorer versions on the candidate's rows; `None` if the champion did not score them.

    The rows of its replay as a challenger are preferred to those of its dataset, if they are enough for the gate.
    """
    tags = registry.version(SCORER, candidate).tags
    found: PairedDifference | None = None
    for rows in filter(None, (tags.get(REPLAYED_ROWS), tags[DATASET])):
        if found is None or found.rows < gate.min_rows:
            both = [download_scored_rows(registry, number, rows) for number in (candidate, champion)]
            if both[0] is not None and both[1] is not None:
                found = paired_difference(both[0], both[1], gate)
    return found


def paired_difference(candidate: pa.Table, champion: pa.Table, gate: Gate) -> PairedDifference:
    """Compares two tables of `scored_rows.SCORED_COLUMNS` on the events that both contain.

    Args:
        candidate: Rows of the candidate.
        champion: Rows of the champion, from the same dataset.
        gate: Sets metric and slice.
    """
    joined = candidate.join(
        champion.select(["event", RELEASE_LOGIT, OOV_LOGIT]), "event", join_type="inner", right_suffix=" champion"
    )
    column = {name: joined[name].to_numpy() for name in joined.column_names}
    in_slice = slices(column["train_events"], column["age_s"])[str(gate.slice)]
    column = {name: values[in_slice] for name, values in column.items()}
    user, label = column["user_idx"], column["label"]
    sides = [
        _per_user(gate, user, label, column[RELEASE_LOGIT + suffix], column[OOV_LOGIT + suffix])
        for suffix in ("", " champion")
    ]
    values, weight = np.stack([side[0] for side in sides]), sides[0][1]
    settings = Evaluation()
    draws = resample(values, weight, resamples=settings.num_resamples, seed=_SEED)
    means = np.average(values, axis=1, weights=weight) if len(weight) else np.full(2, np.nan)
    found = interval(means[0] - means[1], draws[:, 0] - draws[:, 1], confidence=settings.confidence)
    return PairedDifference(float(means[0]), float(means[1]), found.low, found.high, len(label))


def _per_user(
    gate: Gate,
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    release_logit: NDArray[np.floating],
    oov_logit: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The metric [u] and its weight [u] per user; the overall metric is the weighted mean."""
    if gate.metric == "logloss":
        _, position, rows = np.unique(user, return_inverse=True, return_counts=True)
        return np.bincount(position, weights=losses(label, sigmoid(release_logit))) / rows, rows.astype(np.float64)
    score = release_logit if gate.metric == "gauc" else np.round(release_logit - oov_logit, DIGITS)
    ranking = rank_users(user, label, score)
    return ranking.auc, ranking.weight
