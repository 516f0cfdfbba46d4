"""The product as a user runs it: the smoke recipe from generator to HTTP, in processes of its own."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coldstart.config import read_artifact

ROOT = Path(__file__).parents[2]
KINDS = ("dataset", "ranker", "encoder", "item_table", "scorer", "evaluation")

# `.ci/run` runs this file by itself, as the smoke demo.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"workloads.{name}", "--recipe", "tests/smoke.yaml", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def summary(runs: Path) -> dict:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = program("demo", "--json", "--set", f"paths.runs={runs}", "--set", f"serving.port={port}")
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)
    assert printed == json.loads((runs / "smoke" / "summary.json").read_text())
    return printed


def test_the_summary_is_complete(summary: dict) -> None:
    assert summary["recipe"] == "smoke"
    assert summary["dataset"]["items"] == 600
    stages = {"prepare", "train_ranker", "align_coarse", "embed_items", "align_fine", "evaluate", "register"}
    assert set(summary["stages"]) == stages
    assert all(stage["seconds"] > 0 for stage in summary["stages"].values())
    variants = {"oov", "id", "text_similarity", "content_similarity", "content_map", "coarse", "fine", "release"}
    variants |= {"content_oracle", "oracle"}
    assert set(summary["metrics"]) == variants
    for by_slice in summary["metrics"].values():
        assert set(by_slice) == {"all", "cold", "few", "mid", "warm", "fresh"}
        for figures in by_slice.values():
            assert {"auc", "gauc", "logloss", "ece", "rows"} <= set(figures)
    assert set(summary["delta_vs_oov"]) == variants - {"oov"}
    assert {kind: model["alias"] for kind, model in summary["models"].items()} == dict.fromkeys(
        ("ranker", "encoder", "scorer"), "champion"
    )
    assert summary["serving"]["requests"] > 200
    assert summary["serving"]["rank_ms_p50"] > 0
    assert set(summary["versions"]) >= {"ray", "torch", "transformers", "deepspeed", "mlflow"}


def test_the_same_seed_gives_the_same_figures(summary: dict) -> None:
    golden = json.loads((Path(__file__).parent / "golden_smoke.json").read_text())
    machine = {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}
    # Another instruction set or PyTorch rounds sums differently, and training amplifies that.
    tolerance = 1e-6 if machine == {name: golden.pop(name) for name in machine} else 0.05
    compared = 0
    for path, expected in leaves(golden):
        assert value_at(summary, path) == pytest.approx(expected, abs=tolerance), path
        compared += 1
    assert compared > 100


def leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def value_at(tree: dict, path: tuple[str, ...]) -> float:
    for name in path[:-1]:
        tree = tree[name]
    return tree[path[-1]]


def test_truth_bounds_what_was_learned(summary: dict) -> None:
    cold = {name: by_slice["cold"]["gauc"] for name, by_slice in summary["metrics"].items()}
    assert cold["id"] == cold["oov"]
    assert cold["release"] == cold["fine"]
    assert (
        max(cold[name] for name in ("oov", "content_map", "coarse", "fine")) < cold["content_oracle"] < cold["oracle"]
    )


def test_every_stage_handed_over_an_artifact_with_its_lineage(summary: dict, runs: Path) -> None:
    artifacts = {kind: read_artifact(runs / "smoke" / kind, kind) for kind in KINDS}
    for artifact in artifacts.values():
        for kind, fingerprint in artifact.lineage.items():
            if kind in artifacts:
                assert artifacts[kind].fingerprint == fingerprint
    assert (runs / "smoke" / "evaluation" / "report.html").stat().st_size > 10_000


def test_a_second_run_keeps_every_stage(summary: dict, runs: Path) -> None:
    again = program("pipeline", "--set", f"paths.runs={runs}")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("inputs unchanged") == len(KINDS)
    assert "scorer v1" in again.stdout
