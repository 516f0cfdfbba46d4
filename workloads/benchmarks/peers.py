"""Programs that benchmarks run: those of other libraries in environments of their own, watched from outside."""

import os
import subprocess
import venv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from coldstart.config import UserError

ROOT = Path(__file__).parents[2]
MEMORY_POLL_S = 2.0
"""Interval of memory measurements; each one takes time from the measured cores."""


def environment(name: str, packages: Sequence[str], home: Path) -> Path:
    """Python of a peer's environment; created on first use with the versions of constraints.txt.

    Args:
        name: Of its directory.
        packages: Requirements.
        home: Directory of all environments' parent.

    Raises:
        UserError: a package could not be installed.
    """
    path = home / "environments" / name
    if not (path / ".ready").is_file():
        venv.create(path, with_pip=True)
        pip = [path / "bin" / "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt"), *packages]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{', '.join(packages)} could not be installed into {path}: {done.stderr.strip()[-500:]}")
        (path / ".ready").touch()
    return path / "bin" / "python"


def run_watched(
    command: Sequence[str], *, log: Path, text: str = "", variables: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Runs a program; returns the peak memory in MB of its largest process and of all processes together.

    Args:
        command: The program with its arguments.
        log: File for what it prints.
        text: Its standard input.
        variables: Further environment variables.

    Raises:
        UserError: it failed.
    """
    environ = os.environ | dict(variables or {})
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream, env=environ, text=True)
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        peak = peak_of_all = 0.0
        while process.poll() is None:
            held = _memory(process.pid)
            peak, peak_of_all = max(peak, *held), max(peak_of_all, sum(held))
            with suppress(subprocess.TimeoutExpired):
                process.wait(MEMORY_POLL_S)
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed; the end of {log}:\n{log.read_text()[-1500:]}")
    return peak, peak_of_all


def _memory(pid: int) -> list[float]:
    """Proportional set size in MB of a process and of each descendant."""
    held = [0.0]
    with suppress(psutil.NoSuchProcess):
        for member in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                held.append(member.memory_full_info().pss / 1e6)
    return held
