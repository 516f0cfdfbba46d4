"""The live line of a running stage, drawn from its journal."""

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from coldstart.config import Journal

CONSOLE = Console(highlight=False)
if not CONSOLE.is_terminal:
    CONSOLE.width = 120
_SECONDS_BETWEEN_LINES = 15.0
_FEW = {
    "align_coarse": ("loss", "recall_at_10", "mean_cosine", "items_per_second", "mfu", "data_wait", "checkpoint_stall")
}
"""Figures that are shown of stages whose journal holds more than fits a line."""


@contextmanager
def live_line(stage: str, journal: Journal) -> Iterator[None]:
    """Shows how far a stage is while the block runs, and its last figures when it ends.

    A terminal gets a bar with remaining time; a pipe gets one line every few seconds.
    """
    began = time.monotonic()
    stop = threading.Event()
    line = _Bar(stage, journal) if CONSOLE.is_terminal else _Lines(stage, journal)

    def follow() -> None:
        while not stop.wait(0.3):
            line.update()

    thread = threading.Thread(target=follow, daemon=True)
    with line:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            line.update()
    CONSOLE.print(
        f"[green]done[/]  {stage:<13} {time.monotonic() - began:6.1f} s  [dim]{line.figures}[/]", soft_wrap=True
    )


def _shown(stage: str, entry: dict[str, Any]) -> str:
    names = _FEW.get(stage, tuple(key for key in entry if key not in ("time", "done", "total")))
    figures = {name: entry[name] for name in names if name in entry}
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )


class _Line(ABC):
    def __init__(self, stage: str, journal: Journal) -> None:
        self.stage, self.journal, self.figures = stage, journal, ""
        self._latest: dict[str, Any] = {}

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - lines need no closing, only a bar does
        pass

    def _read(self) -> dict[str, Any] | None:
        entry = None
        for line in self.journal.follow():
            if "note" in line:
                CONSOLE.print(f"[yellow]note[/]  {self.stage:<13} {line['note']}", soft_wrap=True)
                continue
            entry = line
            self._latest.update(entry)
        if entry is not None:
            self.figures = _shown(self.stage, self._latest)
            return self._latest
        return None

    @abstractmethod
    def update(self) -> None: ...


class _Bar(_Line):
    def __enter__(self) -> "_Bar":
        self._progress = Progress(
            TextColumn("[bold]      {task.description:<13}"),
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=CONSOLE,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(self.stage, total=None, figures="starting")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self) -> None:
        if entry := self._read():
            self._progress.update(
                self._task, completed=entry["done"], total=entry["total"] or None, figures=self.figures
            )


class _Lines(_Line):
    _printed = float("-inf")

    def update(self) -> None:
        entry = self._read()
        if entry and time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            CONSOLE.print(f"      {self.stage:<13} {entry['done']}/{entry['total']}  {self.figures}", soft_wrap=True)
            sys.stdout.flush()
