"""A candidate and the champion on the same rows: the paired difference of a figure, with an interval over users.

With every adaptor version lie the rows it was evaluated on, with the logits it would have served there. Two versions
evaluated on one dataset were scored on the same events, so their difference is free of what the events have in common.

Legend: `n` rows, `u` users.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation, Gate
from coldstart.evaluation.intervals import interval, resample
from coldstart.evaluation.metrics import losses, rank_users, sigmoid
from coldstart.evaluation.protocol import DIGITS
from coldstart.evaluation.runs import SCORES
from coldstart.evaluation.scored_rows import LOGIT
from coldstart.evaluation.slices import slices
from coldstart.evaluation.variants import BASELINE
from coldstart.registry.registry import REPLAYED, Registry

SERVED, CONTEXT = f"{LOGIT}release", f"{LOGIT}{BASELINE}"
COLUMNS = ("event", "user_idx", "label", "train_events", "age_s", SERVED, CONTEXT)
"""What is kept of the scored rows of an evaluation."""
_SEED = 17


@dataclass(frozen=True)
class Paired:
    """Two versions on the same rows.

    Attributes:
        figure: The candidate's.
        champion: The champion's.
        low: Lower end of the interval of the difference, candidate less champion.
        high: Its upper end.
        rows: Rows both were scored on.
    """

    figure: float
    champion: float
    low: float
    high: float
    rows: int


def evaluated_rows(evaluation: Path) -> pa.Table:
    """What is kept of an evaluation artifact's scored rows."""
    return pq.read_table(evaluation / SCORES, columns=list(COLUMNS))


def compare(registry: Registry, candidate: int, champion: int, gate: Gate) -> Paired | None:
    """Compares two adaptor versions on the candidate's rows; `None` when the champion was not scored on them.

    Those of its replay as a challenger go before those of its dataset, if there are as many as the gate asks for.
    """
    tags = registry.version("adaptor", candidate).tags
    found: Paired | None = None
    for rows in filter(None, (tags.get(REPLAYED), tags["coldstart.dataset"])):
        if found is None or found.rows < gate.min_rows:
            mine, others = (registry.scored_rows(number, rows) for number in (candidate, champion))
            found = found if mine is None or others is None else pair(mine, others, gate)
    return found


def pair(candidate: pa.Table, champion: pa.Table, gate: Gate) -> Paired:
    """Compares two tables of COLUMNS on the events that both hold.

    Args:
        candidate: Rows of the candidate.
        champion: Rows of the champion, of the same dataset.
        gate: Names metric and slice.
    """
    both = candidate.join(
        champion.select(["event", SERVED, CONTEXT]), "event", join_type="inner", right_suffix=" other"
    )
    column = {name: both[name].to_numpy() for name in both.column_names}
    kept = slices(column["train_events"], column["age_s"])[str(gate.slice)]
    column = {name: values[kept] for name, values in column.items()}
    user, label = column["user_idx"], column["label"]
    sides = [_by_user(gate, user, label, column[SERVED + end], column[CONTEXT + end]) for end in ("", " other")]
    values, weight = np.stack([side[0] for side in sides]), sides[0][1]
    settings = Evaluation()
    draws = resample(values, weight, resamples=settings.bootstrap, seed=_SEED)
    means = np.average(values, axis=1, weights=weight) if len(weight) else np.full(2, np.nan)
    found = interval(means[0] - means[1], draws[:, 0] - draws[:, 1], confidence=settings.confidence)
    return Paired(float(means[0]), float(means[1]), found.low, found.high, len(label))


def _by_user(
    gate: Gate,
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    served: NDArray[np.floating],
    context: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The figure [u] and the rows [u] of each user; the figure over all is their weighted mean."""
    if gate.metric == "logloss":
        _, of, rows = np.unique(user, return_inverse=True, return_counts=True)
        return np.bincount(of, weights=losses(label, sigmoid(served))) / rows, rows.astype(np.float64)
    ranking = rank_users(user, label, served if gate.metric == "gauc" else np.round(served - context, DIGITS))
    return ranking.auc, ranking.weight
