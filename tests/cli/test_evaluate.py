"""`coldstart evaluate` runs the workload `evaluate` with the same options."""

import sys
from contextlib import nullcontext

import pytest

from coldstart import jobs
from coldstart.jobs import runner
from tests.cli.conftest import Command


def test_options_are_passed_on_to_the_workload(coldstart: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str]]] = []
    asked: list[str] = []
    monkeypatch.setattr(jobs, "run_job", lambda name: started.append((name, sys.argv[1:])))
    monkeypatch.setattr(runner, "ray_cluster", lambda _, address: nullcontext(asked.append(address)))
    assert coldstart("evaluate").returncode == 0
    options = ["--set", "seed=3", "--set", "name=x", "--seeds", "2", "--address", "127.0.0.1:9", "--json"]
    assert coldstart("evaluate", "--recipe", "movielens", *options).returncode == 0
    assert started == [
        ("evaluate", ["--recipe", "demo"]),
        ("evaluate", ["--recipe", "movielens", *options]),
    ]
    assert asked == ["127.0.0.1:9"]


def test_an_unknown_recipe_is_named(coldstart: Command) -> None:
    done = coldstart("evaluate", "--recipe", "dmeo")
    assert done.returncode == 2
    assert "dmeo" in done.stderr
