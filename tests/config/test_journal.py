import json
import os
import resource
from pathlib import Path

from coldstart.config import Journal


def test_lines_wait_for_room_on_a_full_disk_and_none_is_torn(tmp_path: Path):
    """A limit on the size of a file stands for the disk: the kernel refuses the same write."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(1, 9, loss=1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(journal.path) + 10, hard))
    try:
        journal.write(2, 9, loss=0.5)
        journal.write(3, 9, note="nothing can be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [line["done"] for line in journal.read()] == [1]
    journal.write(4, 9, loss=0.2)
    assert [json.loads(line)["done"] for line in journal.path.read_text().splitlines()] == [1, 2, 3, 4]
