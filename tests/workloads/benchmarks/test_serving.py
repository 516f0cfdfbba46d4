"""The figures of the serving benchmark, from what clients saw."""

import json

import numpy as np
import pytest

from coldstart.config.recipe import Serving
from workloads.benchmarks.serving import made, table
from workloads.benchmarks.serving.__main__ import COLD, HISTORY, STEP, bodies
from workloads.benchmarks.serving.served import PLAIN, settings


def row(at: float, ms: float, status: int = 200, retry: str | None = None, release: str = "r/1") -> list:
    return [at, ms, status, retry, release]


def cell(contender: str, clients: int, ms: float, seconds: float = 2.0) -> dict:
    rows = [row(0.5, 9_999.0), *(row(1 + at, ms) for at in np.arange(0, seconds, ms / 1000 / clients))]
    step = {"clients": clients, "began": 1.0, "ended": 1.0 + seconds, "cpu_s": 0.5}
    return {"contender": contender, "shape": "32", "steps": [step], "rows": rows}


def test_cells_are_medians_of_rounds_without_the_warm_up():
    (seen,) = table.cells([cell("ours", 1, ms) for ms in (10.0, 30.0, 20.0)])
    assert (seen["contender"], seen["clients"], seen["rounds"], seen["failed"]) == ("ours", 1, 3, 0)
    assert seen["p50"] == seen["p99"] == 20.0
    assert seen["rps"] == pytest.approx(50, rel=0.02)
    assert seen["cpu_ms"] == pytest.approx(5.0, rel=0.02)


def test_the_section_says_what_was_asked_and_what_was_seen():
    speeds = {"ours": 4.0, "bare": 2.0, "plain": 16.0}
    steady = table.cells([cell(name, many, ms) for name, ms in speeds.items() for many in (1, 16)])
    text = table.section({"steady": steady, "parity": 2e-7, "minutes": 8.0})
    asked = [line for line in text.splitlines() if line.startswith(("| 16 clients", "| 1 client", "| 1,000"))]
    assert [line.rstrip(" |").rpartition("| ")[2] for line in asked] == ["0.50", "2.00", "4.00", "2.0e-07"]


def test_a_swap_is_told_by_release_and_every_failure_counts():
    rows = [row(1, 2.0), row(2, 2.0, status=500, release=""), row(3, 2.0, release="r/2")]
    seen = table.swap({"rows": rows, "steps": [{"began": 0.0}], "told": ["swapped 3.0"]})
    assert (seen["requests"], seen["failed"]) == (3, 1)
    assert seen["last_change_s"] == 3.0


def test_a_step_counts_refusals_that_do_not_say_when_to_come_back():
    rows = [row(1, 5.0), row(11, 5.0, status=429, retry="1"), row(12, 5.0, status=429), row(50, 7.0)]
    steps = [{"began": 0.0, "ended": 10.0}, {"began": 10.0, "ended": 55.0}]
    seen = table.step({"rows": rows, "steps": steps, "replicas": {"gateway": 2}})
    assert seen["refused_without_retry_after"] == 1
    assert (seen["first_10_s"]["refused"], seen["last_10_s"]["p99"]) == (2, 7.0)


def test_bodies_are_what_they_are_called():
    (body, *_) = bodies(np.random.default_rng(1), 32, COLD, count=3)
    cold = sum(made.IDS.index(candidate["item_id"]) >= made.TRAINED for candidate in body["candidates"])
    assert (len(body["history"]), len(body["candidates"]), cold) == (HISTORY, 32, COLD)
    assert json.dumps(body)


def test_contenders_have_settings_that_the_recipe_allows():
    plain, ours = (settings(kind, 8000, {}) for kind in ("plain", "ours"))
    assert (
        (plain.ingress, plain.max_batch, plain.max_queued)
        == ("proxy", 1, -1)
        == tuple(PLAIN[n] for n in ("ingress", "max_batch", "max_queued"))
    )
    assert ours.ingress == Serving().ingress == "haproxy"
    assert settings("ours", 8000, STEP).max_replicas == 3
