from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from workloads.benchmarks.data import large_log
from workloads.benchmarks.data.__main__ import OURS, Run, disagreements, section


def test_a_log_has_known_items_ascending_times_and_clicks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(large_log, "ROWS_PER_GROUP", 3_000)
    large_log.write_log(tmp_path / "a", 10_000)
    events, items = (pq.read_table(tmp_path / "a" / f"{name}.parquet") for name in ("events", "items"))
    assert len(events) == 10_000
    assert pq.read_metadata(tmp_path / "a" / "events.parquet").num_row_groups == 4
    assert set(events["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    times = np.asarray(events["timestamp"])
    assert (np.diff(times) >= 0).all()
    assert 0.15 < np.mean(events["clicked"]) < 0.25
    large_log.write_log(tmp_path / "b", 10_000)
    assert pq.read_table(tmp_path / "b" / "events.parquet").equals(events)


def test_the_table_has_ratios_to_the_faster_engine_and_names_disagreements() -> None:
    runs = [Run(100, OURS, 30.0, 10.0, 1.5, 98), Run(100, "Polars", 5.0, 5.0, 1.0, 98), Run(100, "x", 8, 8, 1, 98)]
    assert "| 100 | coldstart | 30.0 | 10.0 | 2.0 | 1.5 |" in section(runs)
    assert not disagreements(runs)
    assert disagreements([*runs, Run(100, "y", 1, 1, 1, 99)]) == ["y kept 99 of 100"]
