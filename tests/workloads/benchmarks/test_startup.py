"""The benchmark of the command line's start."""

from pathlib import Path

from workloads.benchmarks import startup


def test_processor_time_is_that_of_the_process() -> None:
    idle = startup.processor_seconds(["-c", "pass"])
    busy = startup.processor_seconds(
        ["-c", "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"]
    )
    assert 0 < idle < busy
    assert busy >= 0.5


def test_only_commands_above_the_ceiling_are_named() -> None:
    limit = startup.CEILING_S
    seconds = {
        "python -c pass": [2 * limit],
        "coldstart --help": [0.9 * limit, 2 * limit],
        "coldstart x": [1.1 * limit],
    }
    assert startup.too_slow(seconds) == ["coldstart x"]
    assert {"coldstart --help", "coldstart validate demo"} <= set(startup.commands(Path("recipe.yaml")))
