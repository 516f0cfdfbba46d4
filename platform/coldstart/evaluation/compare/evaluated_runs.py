"""Evaluated runs: reading them, checking that two have the same rows, and AUCs of users.

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

from coldstart.config import Artifact, UserError, flatten_keys, read_artifact
from coldstart.evaluation.inference.pairwise_tests import METRICS
from coldstart.evaluation.protocol.protocol import EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.variants import VARIANTS
from coldstart.metrics.clicks import rank_users

SCORES = "scores"
RECIPE = "recipe.yaml"
"""Contents of an evaluation besides its report: the directory of scored rows, and its recipe."""


@dataclass(frozen=True)
class EvaluatedRun:
    """A run directory that has an evaluation.

    Attributes:
        path: The run directory.
        artifact: Its evaluation; `metadata` is the summary.
        settings: Setting -> value, with flattened keys.
    """

    path: Path
    artifact: Artifact
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> "EvaluatedRun":
        """Opens a run directory.

        Raises:
            UserError: it has no evaluation, or one of an older release without scored rows.
        """
        artifact = read_artifact(path / "evaluation", "evaluation")
        for part in (SCORES, RECIPE):
            if not (artifact.path / part).exists():
                raise UserError(
                    f"the evaluation in {path} has no {part}: an older release wrote it. Evaluate the run again"
                )
        return cls(path, artifact, dict(flatten_keys(yaml.safe_load((artifact.path / RECIPE).read_text()))))

    @cached_property
    def rows(self) -> ScoredRows:
        """All scored rows, in order of events."""
        return ScoredRows.read(self.artifact.path / SCORES)


def unpaired_reason(left: EvaluatedRun, right: EvaluatedRun) -> str | None:
    """Why the rows of two runs cannot be paired; `None` if they can."""
    left_dataset, right_dataset = (run.artifact.lineage.get("dataset", "") for run in (left, right))
    if left_dataset != right_dataset:
        return f"they were evaluated on different datasets ({left_dataset[:12]} and {right_dataset[:12]})"
    if not np.array_equal(left.rows.event, right.rows.event):
        return f"they evaluated different rows of the dataset ({len(left.rows):,} and {len(right.rows):,} rows)"
    return None


def scores_by_metric(rows: ScoredRows) -> dict[str, dict[str, NDArray[np.floating]]]:
    """Metric (`gauc`, `gauc_item`) -> variant -> [n] scores that rank the rows."""
    protocol = EvaluationProtocol(
        tuple(name for name in VARIANTS if name in rows.logits), item_effect=(), edges=(), top_k=1, bins=1
    )
    scores = dict(zip(protocol.scores, protocol.values(rows), strict=True))
    return {metric: {name: scores[kind, name] for name in protocol.variants} for metric, kind in METRICS.items()}


@dataclass(frozen=True)
class UserAucs:
    """AUCs of users for several scores of the same rows.

    Attributes:
        auc: [M, u].
        weight: [u] rows of each user.
    """

    auc: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, rows: ScoredRows, member: NDArray[np.bool_], scores: Mapping[str, NDArray[np.floating]]) -> "UserAucs":
        """AUCs of scores [n] on the rows [n] where `member` is true."""
        user, label = rows.user_idx[member], rows.label[member]
        found = [rank_users(user, label, values[member]) for values in scores.values()]
        return cls(np.stack([each.auc for each in found]), found[0].weight)

    @property
    def gauc(self) -> NDArray[np.float64]:
        """[M], NaN without users."""
        if not len(self.weight):
            return np.full(len(self.auc), np.nan)
        return np.asarray(self.auc @ self.weight / self.weight.sum())
