"""Evaluated runs: what one recorded, whether two hold the very same rows, and their users' figures on those.

Legend: `n` rows, `M` scores, `u` users.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from coldstart.config import Artifact, UserError, joined, read_artifact
from coldstart.evaluation.comparisons import METRICS
from coldstart.evaluation.metrics import rank_users
from coldstart.evaluation.protocol import Protocol
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.variants import MEANINGS

SCORES = "scores"
RECIPE = "recipe.yaml"
"""What an evaluation holds beside its report: a directory of scored rows, and the recipe it was made with."""


@dataclass(frozen=True)
class EvaluatedRun:
    """A run directory with an evaluation in it.

    Attributes:
        path: The run directory.
        artifact: Its evaluation; `about` is the summary.
        settings: Setting -> value, under joined names.
    """

    path: Path
    artifact: Artifact
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> "EvaluatedRun":
        """Opens a run directory.

        Raises:
            UserError: it holds no evaluation, or one that was written before scored rows were kept.
        """
        artifact = read_artifact(path / "evaluation", "evaluation")
        for part in (SCORES, RECIPE):
            if not (artifact.path / part).exists():
                raise UserError(f"the evaluation in {path} keeps no {part}: it is of an older release; evaluate again")
        return cls(path, artifact, dict(joined(yaml.safe_load((artifact.path / RECIPE).read_text()))))

    @cached_property
    def rows(self) -> ScoredRows:
        """All scored rows, in order of events."""
        return ScoredRows.read(self.artifact.path / SCORES)


def why_not_paired(left: EvaluatedRun, right: EvaluatedRun) -> str | None:
    """Why figures of two runs cannot be subtracted row by row; `None` when they can."""
    ours, theirs = (run.artifact.lineage.get("dataset", "") for run in (left, right))
    if ours != theirs:
        return f"they were evaluated on different datasets ({ours[:12]} and {theirs[:12]})"
    if not np.array_equal(left.rows.event, right.rows.event):
        return f"they evaluated different rows of the dataset ({len(left.rows):,} and {len(right.rows):,} rows)"
    return None


def scores_by_metric(rows: ScoredRows) -> dict[str, dict[str, NDArray[np.floating]]]:
    """Metric (`gauc`, `gauc_item`) -> variant -> [n] what rows are ranked by."""
    protocol = Protocol(tuple(name for name in MEANINGS if name in rows.logits), appeal=(), edges=(), top=1, bins=1)
    found = dict(zip(protocol.scores, protocol.values(rows), strict=True))
    return {metric: {name: found[way, name] for name in protocol.variants} for metric, way in METRICS.items()}


@dataclass(frozen=True)
class RankedUsers:
    """AUC of every user by several scores of the same rows.

    Attributes:
        auc: [M, u].
        weight: [u] rows of each user.
    """

    auc: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def of(
        cls, rows: ScoredRows, member: NDArray[np.bool_], scores: Mapping[str, NDArray[np.floating]]
    ) -> "RankedUsers":
        """Users of the rows [n] where `member` is true, by scores [n]."""
        user, label = rows.user_idx[member], rows.label[member]
        found = [rank_users(user, label, values[member]) for values in scores.values()]
        return cls(np.stack([each.auc for each in found]), found[0].weight)

    @property
    def gauc(self) -> NDArray[np.float64]:
        """[M], NaN without users."""
        if not len(self.weight):
            return np.full(len(self.auc), np.nan)
        return np.asarray(self.auc @ self.weight / self.weight.sum())
