"""Summaries of the serving benchmark."""

import json

import numpy as np
import pytest

from coldstart.config.recipe import Serving
from workloads.benchmarks.serving import fixtures, report
from workloads.benchmarks.serving.__main__ import COLD, HISTORY, STEP, make_bodies
from workloads.benchmarks.serving.application_server import SERVE_DEFAULTS, settings


def row(at: float, ms: float, status: int = 200, retry: str | None = None, release: str = "r/1") -> list:
    return [at, ms, status, retry, release]


def cell(server: str, clients: int, ms: float, seconds: float = 2.0) -> dict:
    rows = [row(0.5, 9_999.0), *(row(1 + at, ms) for at in np.arange(0, seconds, ms / 1000 / clients))]
    step = {"clients": clients, "began": 1.0, "ended": 1.0 + seconds, "cpu_s": 0.5}
    return {"server": server, "shape": "32", "steps": [step], "rows": rows}


def test_cells_are_medians_of_rounds_without_the_warm_up():
    (summary,) = report.summarize_cells([cell("coldstart", 1, ms) for ms in (10.0, 30.0, 20.0)])
    assert [summary[key] for key in ("server", "clients", "rounds", "failed")] == ["coldstart", 1, 3, 0]
    assert summary["p50"] == summary["p99"] == 20.0
    assert summary["rps"] == pytest.approx(50, rel=0.02)
    assert summary["cpu_ms"] == pytest.approx(5.0, rel=0.02)


def test_the_section_shows_targets_and_measurements():
    speeds = {"coldstart": 4.0, "uvicorn": 2.0, "serve_defaults": 16.0}
    steady = report.summarize_cells([cell(name, many, ms) for name, ms in speeds.items() for many in (1, 16)])
    text = report.section({"steady": steady, "parity": 2e-7, "minutes": 8.0})
    targets = [line for line in text.splitlines() if line.startswith(("| 16 clients", "| 1 client", "| 1,000"))]
    assert [line.rstrip(" |").rpartition("| ")[2] for line in targets] == ["0.50", "2.00", "4.00", "2.0e-07"]


def test_a_swap_summary_counts_failures_and_finds_the_last_change_of_release():
    rows = [row(1, 2.0), row(2, 2.0, status=500, release=""), row(3, 2.0, release="r/2")]
    swap = report.summarize_swap({"rows": rows, "steps": [{"began": 0.0}], "swaps": ["swapped 3.0"]})
    assert (swap["requests"], swap["failed"]) == (3, 1)
    assert swap["last_change_s"] == 3.0


def test_a_step_summary_counts_refusals_without_retry_after():
    rows = [row(1, 5.0), row(11, 5.0, status=429, retry="1"), row(12, 5.0, status=429), row(50, 7.0)]
    steps = [{"began": 0.0, "ended": 10.0}, {"began": 10.0, "ended": 55.0}]
    step = report.summarize_step({"rows": rows, "steps": steps, "replicas": {"gateway": 2}})
    assert step["refused_without_retry_after"] == 1
    assert (step["first_10_s"]["refused"], step["last_10_s"]["p99"]) == (2, 7.0)


def test_bodies_have_the_history_candidates_and_cold_items_of_their_shape():
    (body, *_) = make_bodies(np.random.default_rng(1), 32, COLD, count=3)
    cold = sum(fixtures.IDS.index(candidate["item_id"]) >= fixtures.TRAINED for candidate in body["candidates"])
    assert (len(body["history"]), len(body["candidates"]), cold) == (HISTORY, 32, COLD)
    assert json.dumps(body)


def test_the_recipe_accepts_the_settings_of_every_variant():
    defaults, ours = (settings(kind, 8000, {}) for kind in ("serve_defaults", "coldstart"))
    assert (
        (defaults.ingress, defaults.max_batch, defaults.max_queued_requests)
        == ("proxy", 1, -1)
        == tuple(SERVE_DEFAULTS[n] for n in ("ingress", "max_batch", "max_queued_requests"))
    )
    assert ours.ingress == Serving().ingress == "haproxy"
    assert settings("coldstart", 8000, STEP).max_replicas == 3
