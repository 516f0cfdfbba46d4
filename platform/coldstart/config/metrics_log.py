"""The metrics log: JSON lines with the progress and the metrics of a running stage, append-only.

Rank 0 of a distributed stage writes it to the run's storage. The program that started the stage reads it to show
progress, and its metrics go to MLflow. Training never waits for a reader.
"""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class MetricsLog:
    """One file of JSON lines.

    Attributes:
        path: The file. The first write creates its parent directories.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._first_line = ""
        self._unwritten = b""

    def write(self, done: int, total: int, **metrics: float | str) -> None:
        """Appends one line: `done` of `total` units, and metrics by name (loss, gauc, ...).

        A line with a `note` is a message for people, not a measurement. If the disk is full, the lines are kept in
        memory and written later, so that a full disk does not stop the stage.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": round(time.time(), 3), "done": done, "total": total, **metrics}
        self._unwritten += json.dumps(line).encode() + b"\n"
        with self.path.open("ab", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(self._unwritten) == len(self._unwritten):
                    self._unwritten = b""
                    return
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise
            stream.truncate(end)

    def follow(self) -> Iterator[dict[str, Any]]:
        """Yields the complete lines appended since the last call."""
        try:
            stream = self.path.open()
        except FileNotFoundError:
            return
        with stream:
            if (first := stream.readline()) != self._first_line:
                # Another process cleared the file; the new one may be longer than what was read of the old one.
                self._position, self._first_line = 0, first if first.endswith("\n") else ""
            stream.seek(self._position)
            while line := stream.readline():
                if not line.endswith("\n"):
                    return
                self._position = stream.tell()
                yield json.loads(line)

    def read(self) -> list[dict[str, Any]]:
        """All complete lines of the file."""
        return list(MetricsLog(self.path).follow())

    def clear(self) -> None:
        """Deletes the file."""
        self.path.unlink(missing_ok=True)
        self._position = 0
