import json
import os
import resource
from pathlib import Path

from coldstart.config import MetricsLog


def test_lines_wait_while_the_disk_is_full_and_none_is_partial(tmp_path: Path):
    """A limit on the file size simulates a full disk: the kernel refuses the write in the same way."""
    metrics_log = MetricsLog(tmp_path / "metrics.jsonl")
    metrics_log.write(1, 9, loss=1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(metrics_log.path) + 10, hard))
    try:
        metrics_log.write(2, 9, loss=0.5)
        metrics_log.write(3, 9, note="nothing can be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [line["done"] for line in metrics_log.read()] == [1]
    metrics_log.write(4, 9, loss=0.2)
    assert [json.loads(line)["done"] for line in metrics_log.path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_reader_follows_a_log_that_another_process_cleared(tmp_path: Path):
    """Whether the new log is shorter or longer than what was read of the old one."""
    for longer in (False, True):
        reader, writer = MetricsLog(tmp_path / "metrics.jsonl"), MetricsLog(tmp_path / "metrics.jsonl")
        writer.clear()
        assert list(reader.follow()) == []
        writer.write(1, 9, note="a first line that is rather long")
        writer.write(2, 9)
        assert [line["done"] for line in reader.follow()] == [1, 2]
        assert list(reader.follow()) == []
        writer.clear()
        writer.write(3, 9, note="x" * 500 * longer)
        writer.write(4, 9)
        assert [line["done"] for line in reader.follow()] == [3, 4]
        writer.write(5, 9)
        assert [line["done"] for line in reader.follow()] == [5]
