"""Scored rows of a scorer version in MLflow: events with the logits that it would have served, one file per dataset."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.evaluation.compare.evaluated_runs import SCORES
from coldstart.evaluation.protocol.scored_rows import LOGIT
from coldstart.evaluation.protocol.variants import BASELINE
from coldstart.methods.base import SCORER
from coldstart.registry.registry import Registry
from coldstart.registry.version_tags import REPLAYED_ROWS

RELEASE_LOGIT, OOV_LOGIT = f"{LOGIT}release", f"{LOGIT}{BASELINE}"
SCORED_COLUMNS = ("event", "user_idx", "label", "train_events", "age_s", RELEASE_LOGIT, OOV_LOGIT)
"""Columns of an evaluation's scored rows that are registered."""
SCORED_ROWS = "scores"
"""Run artifact of a scorer: its scored rows."""


def read_scored_rows(evaluation: Path) -> pa.Table:
    """The scored rows of an evaluation artifact, with `SCORED_COLUMNS`."""
    return pq.read_table(evaluation / SCORES, columns=list(SCORED_COLUMNS))


def download_scored_rows(registry: Registry, number: int, dataset: str) -> pa.Table | None:
    """Rows of a dataset with the logits of a scorer version; `None` if it did not score them.

    Args:
        registry: The project's registry.
        number: Scorer version.
        dataset: Fingerprint of the dataset, or of later rows.
    """
    run_id = registry.version(SCORER, number).run_id
    if not _has_scored_rows(registry, run_id, dataset):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return pq.read_table(registry.client.download_artifacts(run_id, _path(dataset), scratch))


def log_scored_rows(registry: Registry, run_id: str, dataset: str, scores: pa.Table | None) -> None:
    """Adds rows that the model of a run scored, unless it has rows of this dataset."""
    if scores is None or _has_scored_rows(registry, run_id, dataset):
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / Path(_path(dataset)).name
        pq.write_table(scores, file)
        registry.client.log_artifact(run_id, str(file), SCORED_ROWS)


def log_replay(registry: Registry, scores: Mapping[int, pa.Table], rows: str) -> None:
    """Adds rows that several scorer versions scored, so that gates can compare any two of them there.

    Args:
        registry: The project's registry.
        scores: Scorer version -> its scored rows.
        rows: Fingerprint of the rows.
    """
    for number, table in scores.items():
        entry = registry.version(SCORER, number)
        log_scored_rows(registry, entry.run_id, rows, table)
        registry.client.set_model_version_tag(entry.name, entry.version, REPLAYED_ROWS, rows)


def _has_scored_rows(registry: Registry, run_id: str, dataset: str) -> bool:
    return _path(dataset) in (file.path for file in registry.client.list_artifacts(run_id, SCORED_ROWS))


def _path(dataset: str) -> str:
    return f"{SCORED_ROWS}/{dataset[:32]}.parquet"
