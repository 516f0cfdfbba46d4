"""The soak's own judgement, and a few minutes of it for real."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from coldstart.client import RankAnswer
from coldstart.config import read_artifact
from coldstart.data.content import Content
from tests.client.trouble import Answer, problem, trouble
from tests.serving.local import LocalModels
from tests.serving.tiny import IDS, TRAINED, content, tiny_recipe, write_run
from workloads.benchmarks.soak.load import Tally, send
from workloads.benchmarks.soak.processes import SETTLE_S, Family, Growth, growth_of, held
from workloads.benchmarks.soak.releases import Request, expected, make_release

SCORES = {
    "demo-adaptor/1": {"id": [0.1, 0.2], "fine": [0.3, 0.4]},
    "demo-adaptor/2": {"id": [0.5, 0.6], "fine": [0, 0]},
}


def answer(release: str, *scores: float) -> RankAnswer:
    return RankAnswer(scores=list(scores), vectors=["id", "fine"], release=release, ms=1.0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answer("demo-adaptor/1", 0.1, 0.4), None),
        (answer("demo-adaptor/1", 0.1 + 1e-4, 0.4), "off by 1.0e-04"),
        (answer("demo-adaptor/1", 0.5, 0.0), "first score is of demo-adaptor/2"),
        (answer("demo-adaptor/9", 0.1, 0.4), "was never promoted"),
    ],
)
def test_an_answer_must_be_that_of_the_release_it_names(given, told):
    tally = Tally()
    tally.compare(1.0, given, SCORES)
    assert [told in why for _, why in tally.wrong] == ([True] if told else [])
    assert tally.releases == {given.release: 1}


def test_load_keeps_its_rate_and_reports_failures_and_retries():
    scored = Answer(200, {"scores": [0.1, 0.4], "vectors": ["id", "fine"], "release": "demo-adaptor/1", "ms": 1.0})
    candidates = [{"item_id": "a"}, {"item_id": "b"}]
    with trouble(scored, problem(503, "not_ready"), problem(422, "invalid"), *[scored] * 500) as server:
        plan = {
            "url": server.url,
            "rate": 50.0,
            "deadline_s": 20.0,
            "publish_every_s": 0.1,
            "requests": [{"candidates": candidates}],
            "items": [],
            "expected": {name: {kind: [row] for kind, row in kinds.items()} for name, kinds in SCORES.items()},
        }

        async def for_a_second() -> Tally:
            until = asyncio.Event()
            asyncio.get_running_loop().call_later(1.0, until.set)
            return await send(plan, until)

        tally = asyncio.run(for_a_second())
    assert (tally.retries, len(tally.failed), tally.wrong) == ({"503": 1}, 1, [])
    assert "422 invalid" in tally.failed[0][1]
    assert tally.releases["demo-adaptor/1"] == len(tally.milliseconds) > 5


def grown(per_minute: float, seed: int = 0) -> Growth:
    rng = np.random.default_rng(seed)
    series = []
    for size in (300.0, 420.0):
        at = np.arange(SETTLE_S, SETTLE_S + 900, 5)
        noise = np.convolve(rng.normal(0, 1, len(at) + 3), np.ones(4) / 4, "valid")
        series.append(np.column_stack([at, size + per_minute * at / 60 + noise]))
    return growth_of(series)


@pytest.mark.parametrize(("per_minute", "flat"), [(0.0, True), (-1.0, True), (1.0, False)])
def test_growth_is_told_from_noise(per_minute, flat):
    found = grown(per_minute)
    assert found.flat_beside(None) == flat
    assert found.per_minute == pytest.approx(per_minute, abs=4 * found.error)
    assert found.processes == 2


def wandering(likeness: float, per_minute: float, rng: np.random.Generator) -> Growth:
    """Of one process, whose heap strays by 1 MB from a line."""
    at = np.arange(SETTLE_S, SETTLE_S + 1200, 5)
    shocks = rng.normal(0, np.sqrt(1 - likeness**2), len(at))
    shocks[0] = rng.normal()
    strayed = list(accumulate(shocks, lambda before, shock: likeness * before + shock))
    return growth_of([np.column_stack([at, 300 + per_minute * at / 60 + strayed])])


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.9, 0.97])
def test_errors_are_as_large_as_slopes_are_scattered_however_alike_neighbours_are(likeness):
    rng = np.random.default_rng(17)
    found = [wandering(likeness, 0.1, rng) for _ in range(200)]
    scatter = np.std([one.per_minute for one in found])
    assert np.mean([one.per_minute for one in found]) == pytest.approx(0.1, abs=0.3 * scatter)
    assert np.median([one.error for one in found]) == pytest.approx(scatter, rel=0.25)
    assert np.mean([wandering(likeness, 0.0, rng).flat_beside(None) for _ in range(200)]) > 0.9
    assert np.mean([wandering(likeness, 0.5, rng).flat_beside(None) for _ in range(200)]) < 0.05


def test_a_heap_that_only_ever_steps_up_is_no_noise():
    rng = np.random.default_rng(17)
    at = np.arange(SETTLE_S, SETTLE_S + 1200, 5)
    steps = (rng.random((100, len(at))) < 0.05) * rng.exponential(0.3, (100, len(at)))
    flat = [growth_of([np.column_stack([at, 300 + one.cumsum()])]).flat_beside(None) for one in steps]
    assert np.mean(flat) < 0.1


def test_growth_counts_above_that_of_the_idle():
    assert grown(1.0).flat_beside(grown(1.0, seed=1))
    assert not grown(2.0).flat_beside(grown(1.0, seed=1))


def test_replicas_are_found_by_their_title_and_killed_the_eldest_last():
    def replica() -> subprocess.Popen:
        return subprocess.Popen(["ray::ServeReplica:coldstart:gateway", "60"], executable=shutil.which("sleep"))

    family, eldest = Family(os.getpid()), replica()
    # Ages are told to a hundredth of a second.
    time.sleep(0.05)
    younger = replica()
    try:
        assert list(family.roles().values()).count("gateway") == 2
        assert family.kill_one("ranker") is None
        for victim in (younger, eldest):
            assert family.kill_one("gateway") == victim.pid
            assert victim.wait(20) == -signal.SIGKILL
        assert family.kill_one("gateway") is None
    finally:
        younger.kill()
        eldest.kill()


def test_what_a_process_holds_is_its_own_memory():
    before = held(os.getpid())
    kept = bytearray(64 * 2**20)
    assert held(os.getpid()) - before == pytest.approx(64, abs=8)
    del kept


def test_releases_differ_and_what_is_expected_is_what_their_models_answer(tmp_path):
    recipe = tiny_recipe(tmp_path, "soaked")
    write_run(recipe)
    made = tmp_path / "made"
    make_release(recipe.run_dir, made, seed=1)
    assert (
        read_artifact(made / "adaptor", "adaptor").lineage["ranker"]
        == read_artifact(made / "ranker", "ranker").fingerprint
    )
    new = content(3)
    asked = Request("u", [IDS[0], IDS[TRAINED], "soak-1"], [-1, -1, 0], ([IDS[1]], [1], [5]), 10)
    here, there = (expected(path, [asked], [new]) for path in (recipe.run_dir, made))
    assert np.abs(here["fine"] - there["fine"]).min() > 1e-5
    assert np.abs(here["id"] - there["id"])[0, 0] > 1e-5
    from coldstart.serving.scoring import RankQuery

    models = LocalModels(made)
    proxy = asyncio.run(models.proxy(Content(new.title, new.text, new.picture)))
    one = np.ones(1, np.int64)
    query = RankQuery(2 * one, one, 5 * one, np.array([1, 0]), 10, one, proxy[None])
    scores = asyncio.run(models.rank(query))
    assert scores == pytest.approx([there["id"][0, 0], there["fine"][0, 2]], abs=1e-5)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_minutes_of_kills_and_promotions(tmp_path):
    command = [sys.executable, "-m", "workloads.benchmarks.soak", "--recipe", "tests/smoke.yaml", "--json"]
    command += ["--minutes", "3", "--kill-every", "30", "--rate", "4", "--set", f"paths.runs={tmp_path}"]
    # At this rate the default share would not show a challenger often enough to be judged.
    command += ["--set", "serving.challenger.share=0.5", "--set", "serving.challenger.min_requests=20"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout, done.stderr[-3000:]
    result = json.loads(done.stdout)
    # Three minutes are too short to tell growth from settling.
    broken = [name for name, holds in result["verdicts"].items() if not holds and name != "memory flat"]
    assert broken == [], json.dumps([result["failed"][:3], result["wrong"][:3], result["log"]], indent=1)
    assert sum("kill -9" in sentence for _, sentence in result["log"]) == 6
