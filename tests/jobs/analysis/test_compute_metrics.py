import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError
from coldstart.evaluation.protocol.partial_metrics import compute_metrics
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.jobs.analysis.compute_metrics import compute_metrics_from_parts
from tests.evaluation.protocol.test_partial_metrics import same
from tests.evaluation.rows import drawn_rows, protocol_of

pytestmark = pytest.mark.ray


def _write(rows: ScoredRows, directory: Path, parts: int) -> None:
    """Distributes the rows over parts, so that every user has rows in several parts."""
    for part in range(parts):
        chosen = rows.take(np.arange(len(rows)) % parts == part)
        pq.write_table(chosen.to_table(), directory / f"part-{part:05d}.parquet")


@pytest.mark.parametrize(("parts", "rows_per_task"), [(1, 100_000), (3, 3000), (10, 900)])
def test_metrics_of_parts_on_ray_equal_one_process(
    local_ray: None, tmp_path: Path, parts: int, rows_per_task: int
) -> None:
    rows = drawn_rows()
    tied = {name: np.round(values, 1) for name, values in rows.logits.items()}
    rows = dataclasses.replace(rows, logits=tied)
    _write(rows, tmp_path, parts)
    protocol = protocol_of(rows)
    same(compute_metrics_from_parts(tmp_path, protocol, rows_per_task=rows_per_task), compute_metrics(rows, protocol))


def test_scores_that_are_not_finite_are_found_in_any_part(local_ray: None, tmp_path: Path) -> None:
    rows = drawn_rows()
    rows.logits["coarse"][[5, 4000]] = np.nan
    _write(rows, tmp_path, 3)
    with pytest.raises(UserError, match=r"variant 'coarse': 2 of 8000 logits are not finite"):
        compute_metrics_from_parts(tmp_path, protocol_of(drawn_rows()), rows_per_task=3000)
