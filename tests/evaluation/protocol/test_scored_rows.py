from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from coldstart.evaluation.protocol.scored_rows import ScoredRows


def _write(rows: ScoredRows, directory: Path) -> None:
    for part in range(3):
        table = rows.take(np.arange(len(rows)) % 3 == part).to_table()
        pq.write_table(table, directory / f"part-{part:05d}.parquet")


def test_parts_are_read_in_the_order_of_events(rows: ScoredRows, tmp_path: Path) -> None:
    _write(rows, tmp_path)
    found = ScoredRows.read(tmp_path)
    assert found.event.tolist() == rows.event.tolist()
    assert list(found.logits) == list(rows.logits)
    np.testing.assert_array_equal(found.logits["fine"], rows.logits["fine"])
    np.testing.assert_array_equal(found.age_s, rows.age_s)


def test_a_sample_has_all_rows_of_its_users(rows: ScoredRows, tmp_path: Path) -> None:
    _write(rows, tmp_path)
    found = ScoredRows.read(tmp_path, max_rows=2000)
    assert 1000 < len(found) < 3000
    users = np.unique(found.user_idx)
    assert found.event.tolist() == rows.event[np.isin(rows.user_idx, users)].tolist()


def test_unknown_values_are_null_in_files_and_nan_in_memory(rows: ScoredRows) -> None:
    unknown = rows.take(np.arange(10))
    unknown.age_s[3] = unknown.item_effect["fine"][4] = np.nan
    table = unknown.to_table()
    assert table["age_s"].null_count == table["item_effect_fine"].null_count == 1
    again = ScoredRows.from_table(table)
    assert np.flatnonzero(np.isnan(again.age_s)).tolist() == [3]
    assert np.flatnonzero(np.isnan(again.item_effect["fine"])).tolist() == [4]
