"""A journal: the append-only JSON lines in which a running stage says how far it is and how well it does.

Rank 0 of a distributed stage writes it on the run's storage; the program that started the stage follows it to draw a
live line, and afterwards it is the metric history that goes to MLflow. Nothing in the training path waits for it.
"""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Journal:
    """One file of JSON lines.

    Attributes:
        path: The file; parents are made on first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._unwritten = b""

    def write(self, done: int, total: int, **figures: float | str) -> None:
        """Appends one line: `done` of `total` units, and any named figures (loss, gauc, ...).

        A line with a `note` is no measurement: it is there for a person to read. Where the disk is full, lines wait for
        room: a stage is not lost for them.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": round(time.time(), 3), "done": done, "total": total, **figures}
        self._unwritten += json.dumps(line).encode() + b"\n"
        with self.path.open("ab", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(self._unwritten) == len(self._unwritten):
                    self._unwritten = b""
                    return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
            stream.truncate(end)

    def follow(self) -> Iterator[dict[str, Any]]:
        """Yields the complete lines appended since the last call."""
        if not self.path.exists():
            return
        if self.path.stat().st_size < self._position:
            self._position = 0  # Another process started it over.
        with self.path.open() as stream:
            stream.seek(self._position)
            while line := stream.readline():
                if not line.endswith("\n"):
                    return
                self._position = stream.tell()
                yield json.loads(line)

    def read(self) -> list[dict[str, Any]]:
        """All complete lines from the beginning."""
        return list(Journal(self.path).follow())

    def clear(self) -> None:
        """Starts over with an empty file."""
        self.path.unlink(missing_ok=True)
        self._position = 0
