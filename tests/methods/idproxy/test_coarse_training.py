"""Coarse alignment in plain processes with gloo: results do not depend on ZeRO stage, ranks or interruptions."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from coldstart.config import MetricsLog
from coldstart.encoders import Encoder, create_tiny_mllm
from coldstart.methods.idproxy.coarse_training import make_micro_batches
from coldstart.training.checkpoint import Checkpoints
from tests.methods.idproxy import coarse_rank
from tests.ranks import exit_codes, preload

preload(coarse_rank.__name__)

ALL_OPTIONS = {
    "learn_temperature": True,
    "negatives": {"num_sampled": 12, "popularity": 0.5, "log_q": True},
}
SMALL_DISK = 32
"""Megabytes: a checkpoint of the tiny MLLM has 16; its weights have 4 and exist twice while they are replaced."""
COARSE = {"batch": 16, "epochs": 3, "checkpoint_every": 2, "learning_rate": 1e-3}


def start(root: Path, world: int, *runs: dict[str, Any], within: Sequence[str | Path] = ()) -> list[int | None]:
    """Trains the runs one after another on `world` ranks, optionally within another program; returns exit codes."""
    file = root / f"{'-'.join(run['name'] for run in runs)}-{len(list(root.iterdir()))}.json"
    file.write_text(json.dumps(runs))
    if not within:
        return exit_codes(*(partial(coarse_rank.train, file, rank, world, root) for rank in range(world)))
    arguments = [
        [*within, sys.executable, coarse_rank.__file__, file, str(rank), str(world), root] for rank in range(world)
    ]
    ranks = [subprocess.Popen(line, stderr=subprocess.DEVNULL) for line in arguments]
    return [rank.wait(400) for rank in ranks]


def run(name: str, **more: Any) -> dict[str, Any]:
    faults = {fault: more.pop(fault, None) for fault in ("stop_after", "corrupted", "leave_after")}
    dtype = more.pop("dtype", "float32")
    return {"name": name, "coarse": COARSE | more, "dtype": dtype, **faults}


def stages(quick: Sequence[int], of: Sequence[int] = range(4)) -> list[Any]:
    """Parameters of a test: the ZeRO stages that `make test` covers, and the others, which are slow."""
    return [stage if stage in quick else pytest.param(stage, marks=pytest.mark.slow) for stage in of]


def passes(stage: int) -> dict[str, Any]:
    return run(f"passes{stage}", zero_stage=stage, micro_batch=4, **ALL_OPTIONS)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two ranks, and of one, on a catalog with missing images and texts."""
    path = tmp_path_factory.mktemp("coarse")
    create_tiny_mllm(path / "mllm", ["red round vase blue lamp steel"] * 9, image_size=32, seed=1)
    sharded = [run(f"zero{stage}", zero_stage=stage) for stage in (0, 2, 3)]
    assert start(path, 2, *sharded, passes(2), run("corrupted", corrupted=7)) == [0, 0]
    assert start(path, 1, run("alone"), run("at once", **ALL_OPTIONS)) == [0]
    return path


@pytest.fixture(scope="module")
def every_stage(quick: Path) -> Path:
    """The other ZeRO stages, and training in bfloat16."""
    halves = [run(f"half{stage}", zero_stage=stage, micro_batch=4, dtype="bfloat16") for stage in (1, 2, 3)]
    assert start(quick, 2, run("zero1", zero_stage=1), *map(passes, (0, 1, 3)), *halves) == [0, 0]
    return quick


@pytest.fixture
def root(quick: Path, request: pytest.FixtureRequest) -> Path:
    """The runs that a test needs."""
    if request.node.get_closest_marker("slow"):
        request.getfixturevalue("every_stage")
    return quick


def losses(root: Path, name: str) -> list[float]:
    """Loss by step; of a step that was repeated after an interruption, the last value."""
    lines = [line for line in MetricsLog(root / name / "metrics.jsonl").read() if "note" not in line]
    return [loss for _, loss in sorted({line["done"]: line["loss"] for line in lines}.items())]


@pytest.mark.parametrize("stage", stages([2, 3], [1, 2, 3]))
def test_zero_stages_learn_alike(root: Path, stage: int):
    assert len(losses(root, "zero0")) == 6
    np.testing.assert_allclose(losses(root, f"zero{stage}"), losses(root, "zero0"), rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_learns_like_float32_to_its_precision(root: Path, stage: int):
    np.testing.assert_allclose(losses(root, f"half{stage}"), losses(root, "zero0"), rtol=3e-2)
    np.testing.assert_allclose(losses(root, f"half{stage}"), losses(root, "half1"), rtol=1e-2)
    encoder = Encoder.load(root / f"half{stage}" / "result", "cpu")
    assert encoder.mllm.dtype == torch.bfloat16
    assert all(torch.isfinite(weight).all() for weight in encoder.parameters())


def test_one_rank_learns_like_two(root: Path):
    np.testing.assert_allclose(losses(root, "alone"), losses(root, "zero2"), rtol=2e-5)


@pytest.mark.parametrize("stage", stages([2]))
def test_micro_batches_learn_like_one_batch(root: Path, stage: int):
    """With a trained temperature, and sampled negatives with logQ correction."""
    np.testing.assert_allclose(losses(root, f"passes{stage}"), losses(root, "at once"), rtol=2e-5)
    for figure in ("temperature", "gradient_norm"):
        micro, full = (
            [line[figure] for line in MetricsLog(root / name / "metrics.jsonl").read()]
            for name in (f"passes{stage}", "at once")
        )
        np.testing.assert_allclose(micro, full, rtol=2e-3)
        assert len(set(micro)) == 6


def test_micro_batches_have_rows_of_similar_length():
    lengths = np.array([3, 9, 4, 8])
    assert [rows.tolist() for rows in make_micro_batches(lengths, 2)] == [[0, 2], [3, 1]]
    assert [rows.tolist() for rows in make_micro_batches(lengths, 4)] == [[0, 1, 2, 3]]


def test_a_non_finite_loss_stops_all_ranks_and_names_the_item(root: Path):
    step, items = json.loads((root / "corrupted" / "diverged-0").read_text())
    assert items == [7]
    assert (root / "corrupted" / "diverged-1").read_text() == (root / "corrupted" / "diverged-0").read_text()
    assert [line["done"] for line in MetricsLog(root / "corrupted" / "metrics.jsonl").read()] == list(range(1, step))
    np.testing.assert_allclose(losses(root, "corrupted"), losses(root, "zero2")[: step - 1])
    newest = Checkpoints(root / "corrupted" / "checkpoints", "k").newest()
    assert newest is not None
    assert newest["step"] == (step - 1) // 2 * 2
    assert not (root / "corrupted" / "result").exists()


def test_a_killed_run_resumes_to_the_same_result(root: Path):
    assert start(root, 1, run("killed", stop_after=5)) == [9]
    assert not (root / "killed" / "result").exists()
    assert start(root, 1, run("killed")) == [0]
    lines = MetricsLog(root / "killed" / "metrics.jsonl").read()
    assert [line["done"] for line in lines if "note" not in line] == [1, 2, 3, 4, 5, 5, 6]
    assert [line["note"] for line in lines if "note" in line] == ["continues after step 4"]
    np.testing.assert_allclose(losses(root, "killed"), losses(root, "alone"), rtol=1e-6)
    before, after = (load_file(root / name / "result" / "head.safetensors") for name in ("alone", "killed"))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight)


ON_A_SMALL_DISK = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"')


def on_a_small_disk(megabytes: int, path: Path) -> tuple[str | Path, ...]:
    """A command that runs another one with a private disk of this size at a path."""
    path.mkdir(parents=True)
    return (*ON_A_SMALL_DISK, f"{megabytes}m", path)


@pytest.fixture(scope="module")
def full(quick: Path) -> Path:
    """A run whose disk has space for one checkpoint, and one whose disk has space for none."""
    root = quick
    if subprocess.run([*on_a_small_disk(1, root / "try"), "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no tmpfs may be mounted here")
    steps = run("one", checkpoint_every=1)
    assert start(root, 1, steps, within=on_a_small_disk(SMALL_DISK, root / "one" / "checkpoints")) == [0]
    assert start(root, 1, run("none"), within=on_a_small_disk(1, root / "none" / "checkpoints")) == [1]
    return root


@pytest.mark.slow
def test_a_full_disk_is_reported_and_does_not_change_the_result(full: Path):
    lines = MetricsLog(full / "one" / "metrics.jsonl").read()
    notes = [line["note"] for line in lines if "note" in line]
    assert notes
    assert all("No space left on device" in note and "training continues" in note for note in notes)
    assert losses(full, "one") == losses(full, "alone")
    before, after = (Encoder.load(full / name / "result", "cpu").state_dict() for name in ("alone", "one"))
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.slow
def test_a_result_that_does_not_fit_on_disk_ends_the_run_with_advice(full: Path):
    message = (full / "none" / "user-error-0").read_text()
    assert "best.safetensors" in message
    assert "free disk space and run the same command again" in message
    assert not (full / "none" / "result").exists()


def resize(root: Path, name: str, ranks: tuple[int, int], zero_stages: Sequence[int]) -> None:
    """Runs that switch to another number of ranks after three steps."""
    runs = [run(f"{name}{stage}", zero_stage=stage, leave_after=3) for stage in zero_stages]
    before, after = ranks
    assert start(root, before, *runs) == [0] * before
    assert start(root, after, *[each | {"leave_after": None} for each in runs]) == [0] * after


@pytest.fixture(scope="module")
def resized(quick: Path) -> Path:
    resize(quick, "fewer", (2, 1), range(4))
    resize(quick, "more", (1, 2), range(4))
    return quick


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize(("name", "before", "after"), [("fewer", 2, 1), ("more", 1, 2)])
def test_resuming_with_another_number_of_ranks_does_not_change_the_result(
    resized: Path, name: str, before: int, after: int, stage: int
):
    lines = MetricsLog(resized / f"{name}{stage}" / "metrics.jsonl").read()
    assert [line["done"] for line in lines if "note" not in line] == [1, 2, 3, 4, 5, 6]
    notes = [line["note"] for line in lines if "note" in line]
    assert notes[0] == "preemption requested: saved a checkpoint after step 3"
    assert notes[1] == f"the checkpoint of {before} ranks is continued with {after} at step 3"
    # The same rows at every step, and the same weights except for the order of summation over ranks.
    np.testing.assert_allclose(losses(resized, f"{name}{stage}"), losses(resized, "zero0"), rtol=2e-5)
    resumed_encoder, reference = (Encoder.load(resized / run / "result", "cpu") for run in (f"{name}{stage}", "zero0"))
    for part, weight in reference.state_dict().items():
        torch.testing.assert_close(resumed_encoder.state_dict()[part], weight, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["zero0", "zero3"])
def test_result_is_an_ordinary_checkpoint_with_fixed_layers(root: Path, name: str):
    result = root / name / "result"
    model = AutoModelForImageTextToText.from_pretrained(result / "checkpoint")
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    encoder = Encoder.load(result, "cpu")
    assert len(encoder.layers) == 2
    assert list(encoder.layers) == sorted(encoder.layers)
    assert encoder.layers[0][0] >= 1
    first = load_file(root / "zero0" / "result" / "head.safetensors")
    torch.testing.assert_close(load_file(result / "head.safetensors"), first, atol=1e-4, rtol=1e-3)


def test_epochs_end_with_retrieval_metrics_of_held_out_items(root: Path):
    measured = [line for line in MetricsLog(root / "zero2" / "metrics.jsonl").read() if "recall_at_10" in line]
    assert [line["done"] for line in measured] == [2, 4, 6]
    assert measured[0]["chance_recall_at_10"] == 0.25
    assert 1 <= measured[0]["mean_rank"] <= 40
    assert measured[0]["uniformity"] < 0


@pytest.mark.parametrize("stage", stages([0, 2, 3]))
def test_checkpoint_stalls_are_logged(root: Path, stage: int):
    """In the line after each checkpoint: every second step except the last."""
    lines = MetricsLog(root / f"zero{stage}" / "metrics.jsonl").read()
    assert [line["done"] for line in lines if "checkpoint_stall" in line] == [3, 5]


def test_every_step_logs_its_metrics(root: Path):
    for stage in (0, 2, 3):
        lines = MetricsLog(root / f"zero{stage}" / "metrics.jsonl").read()
        assert all(line["gradient_norm"] > 0 and 0 <= line["data_wait"] < 1 for line in lines)
        assert [line["temperature"] for line in lines] == [pytest.approx(0.2)] * 6
        # On a busy machine the ceiling may be measured low.
        assert all(0 < line["mfu"] < line["hfu"] < 2 and 0 < line["padding"] < 1 for line in lines)
        assert all(line["tokens_per_second"] > line["items_per_second"] > 0 for line in lines)
