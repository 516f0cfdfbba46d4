"""Evaluated runs without models: simulated scores, in artifacts as `evaluate` writes them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from coldstart.config import Recipe, dump_recipe, write_artifact
from coldstart.evaluation.protocol.partial_metrics import compute_metrics
from coldstart.evaluation.protocol.protocol import EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.summary import build_summary


def scored_rows(*, noise: float, training: int, users: int = 120, n: int = 6000) -> ScoredRows:
    """Always the same events; `training` is the seed of the errors of `fine` and `id` by item."""
    rng = np.random.default_rng(0)
    user, item = np.sort(rng.integers(0, users, n)), rng.integers(0, 80, n)
    truth = rng.normal(0, 1, 80)[item] + rng.normal(0, 0.7, n)
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    events = np.array([0, 0, 5, 50, 500])[item % 5]
    trained = np.random.default_rng([1, training])
    fine = truth + noise * trained.normal(0, 1, 80)[item]
    cold = events == 0
    logits = {
        "oov": np.zeros(n),
        "id": np.where(cold, 0, truth + 0.5 * trained.normal(0, 1, 80)[item]),
        "content_map": 0.5 * truth + trained.normal(0, 1, n),
        "coarse": 0.5 * truth + trained.normal(0, 1, n),
        "fine": fine,
        "release": np.where(cold, fine, truth),
    }
    return ScoredRows(
        user_idx=user,
        item_idx=item,
        event=np.arange(n),
        timestamp=np.arange(n),
        label=label,
        train_events=events,
        train_clicks=events // 2,
        age_s=np.where(item % 7 == 0, np.nan, 3600.0 * (item % 60)),
        logits={name: values.astype(np.float32) for name, values in logits.items()},
    )


def write_run(path: Path, rows: ScoredRows, recipe: Recipe, *, dataset: str = "d" * 64) -> Path:
    """A run directory with an evaluation of the rows."""
    columns = rows.to_table().column_names
    protocol = EvaluationProtocol.of(columns, recipe.evaluation, edges=(0, 1, 10), headline="fine")
    summary = build_summary(compute_metrics(rows, protocol), recipe.evaluation, seed=recipe.seed)
    lineage = {"dataset": dataset, "ranker": f"{recipe.seed:064d}"}
    with write_artifact(path / "evaluation", "evaluation", lineage, summary) as draft:
        (draft / "scores").mkdir()
        half = len(rows) // 2
        for number, part in enumerate((rows.take(np.arange(half, len(rows))), rows.take(np.arange(half)))):
            pq.write_table(part.to_table(), draft / "scores" / f"part-{number:05d}.parquet")
        (draft / "recipe.yaml").write_text(dump_recipe(recipe))
    return path
