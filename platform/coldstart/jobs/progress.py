"""The progress line of a running stage, read from its metrics log."""

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from coldstart.config import MetricsLog

CONSOLE = Console(highlight=False)
if not CONSOLE.is_terminal:
    CONSOLE.width = 120
_SECONDS_BETWEEN_LINES = 15.0
_SHOWN_METRICS = {
    "align_coarse": ("loss", "recall_at_10", "mean_cosine", "items_per_second", "mfu", "data_wait", "checkpoint_stall")
}
"""Stage -> metrics to show, for stages that log more than fits into a line."""


class Steps:
    """Prints on stderr what a program is doing, with the time since its start.

    Args:
        program: Name of the program.
        quiet: Print nothing.
    """

    def __init__(self, program: str, *, quiet: bool = False) -> None:
        self._program, self._began = program, time.monotonic()
        self._console = Console(stderr=True, highlight=False, quiet=quiet)

    def __call__(self, message: str) -> None:
        """Prints one step."""
        elapsed = time.monotonic() - self._began
        self._console.print(f"      {self._program:<13} {elapsed:6.1f} s  [dim]{escape(message)}[/]", soft_wrap=True)


@contextmanager
def shown_messages(logger: str, show: Callable[[str], None]) -> Iterator[None]:
    """Shows the information messages of a logger of the library while the block runs."""
    source = logging.getLogger(logger)
    handler = logging.Handler()
    handler.emit = lambda record: show(record.getMessage())  # type: ignore[method-assign]
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.removeHandler(handler)
        source.setLevel(level)


@contextmanager
def progress_line(stage: str, metrics_log: MetricsLog) -> Iterator[None]:
    """Shows the progress of a stage while the block runs, and its last metrics at the end.

    A terminal gets a bar with the remaining time; a pipe gets one line every 15 seconds.
    """
    started = time.monotonic()
    stop = threading.Event()
    line = _Bar(stage, metrics_log) if CONSOLE.is_terminal else _Lines(stage, metrics_log)

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
        f"[green]done[/]  {stage:<13} {time.monotonic() - started:6.1f} s  [dim]{line.metrics}[/]", soft_wrap=True
    )


def _format_metrics(stage: str, entry: dict[str, Any]) -> str:
    names = _SHOWN_METRICS.get(stage, tuple(key for key in entry if key not in ("time", "done", "total")))
    shown = {name: entry[name] for name in names if name in entry}
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


class _Line(ABC):
    def __init__(self, stage: str, metrics_log: MetricsLog) -> None:
        self.stage, self.metrics_log, self.metrics = stage, metrics_log, ""
        self._latest: dict[str, Any] = {}

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - only a bar has to be closed
        pass

    def _read(self) -> dict[str, Any] | None:
        entry = None
        for line in self.metrics_log.follow():
            if "note" in line:
                CONSOLE.print(f"[yellow]note[/]  {self.stage:<13} {line['note']}", soft_wrap=True)
                continue
            entry = line
            self._latest.update(entry)
        if entry is not None:
            self.metrics = _format_metrics(self.stage, self._latest)
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
            TextColumn("[dim]{task.fields[metrics]}"),
            console=CONSOLE,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(self.stage, total=None, metrics="starting")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self) -> None:
        if entry := self._read():
            self._progress.update(
                self._task, completed=entry["done"], total=entry["total"] or None, metrics=self.metrics
            )


class _Lines(_Line):
    _printed = float("-inf")

    def update(self) -> None:
        entry = self._read()
        if entry and time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            CONSOLE.print(f"      {self.stage:<13} {entry['done']}/{entry['total']}  {self.metrics}", soft_wrap=True)
            sys.stdout.flush()
