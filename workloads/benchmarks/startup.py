"""Processor seconds until the command line answers, next to a bare Python and a bare `import typer` in the same run.

Each command runs several times in turn with the others; the table shows the least and the median. The exit code is 1
if an answer takes more than the ceiling of processor time.

    python -m workloads.benchmarks.startup
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from workloads.benchmarks.results_page import commit

ROOT = Path(__file__).parents[2]
CEILING_S = 1.5
_MAIN = "from coldstart.cli import main; main()"


def commands(recipe: Path) -> dict[str, list[str]]:
    """Name -> arguments of the Python interpreter; the first two are the references.

    Args:
        recipe: File with a typing error in it.
    """
    return {
        "python -c pass": ["-c", "pass"],
        "python -c 'import typer'": ["-c", "import typer"],
        "coldstart --help": ["-c", _MAIN, "--help"],
        "coldstart run --help": ["-c", _MAIN, "run", "--help"],
        "coldstart validate, recipe with an error": ["-c", _MAIN, "validate", str(recipe)],
        "coldstart run pipeline, recipe with an error": ["-c", _MAIN, "run", "pipeline", "--recipe", str(recipe)],
        "coldstart validate demo": ["-c", _MAIN, "validate", "demo"],
    }


def processor_seconds(arguments: Sequence[str]) -> float:
    """User and system seconds of one Python process and its children."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(repeats: int) -> dict[str, list[float]]:
    """Name of a command -> processor seconds of each run."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text("name: mine\ncoarse: {zero_stge: 2}\n")
        calls = commands(recipe)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, arguments in calls.items():
                seconds[name].append(processor_seconds(arguments))
    return seconds


def too_slow(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Commands of `coldstart` whose least processor time is above the ceiling."""
    return [name for name, runs in seconds.items() if name.startswith("coldstart") and min(runs) > CEILING_S]


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each command (default: 5)")
    seconds = measure(parser.parse_args().repeats)
    bare = min(seconds["python -c pass"])
    title = f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}"
    table = Table("command", "least, s", "median, s", "times python", title=title)
    for name, runs in seconds.items():
        table.add_row(name, f"{min(runs):.2f}", f"{statistics.median(runs):.2f}", f"{min(runs) / bare:.1f}")
    console = Console(width=120)
    console.print(table)
    if slow := too_slow(seconds):
        console.print(f"above the ceiling of {CEILING_S} s of processor time: {', '.join(slow)}")
        raise SystemExit(1)


def _machine() -> str:
    load = f", load {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{load}, commit {commit()}"


if __name__ == "__main__":
    main()
