import json
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from coldstart.training.checkpoint import Checkpoints
from coldstart.training.snapshot import PinnedBufferPool, Snapshot


class Disk:
    """DeepSpeed's own checkpoint engine."""

    def is_decoupled(self) -> bool:
        return False


class Engine:
    """The part of a DeepSpeed engine that Checkpoints uses."""

    def __init__(self) -> None:
        self.state = torch.zeros(1000)
        self.checkpoint_engine: Any = Disk()

    def save_checkpoint(self, root: str, *, tag: str, save_latest: bool) -> None:
        assert not self.checkpoint_engine.is_decoupled()
        self.checkpoint_engine.makedirs(f"{root}/{tag}", exist_ok=True)
        self.checkpoint_engine.save(state_dict={"groups": [{"state": self.state}]}, path=f"{root}/{tag}/state.pt")

    def load_checkpoint(self, root: str, *, tag: str) -> None:
        self.state = torch.load(Path(root) / tag / "state.pt")["groups"][0]["state"]


@pytest.fixture(params=[False, True], ids=["at once", "in the background"])
def saved(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    engine, checkpoints = Engine(), Checkpoints(tmp_path, "key", background=request.param)
    for step in (2, 4, 10):
        engine.state.fill_(step)
        assert checkpoints.save(engine, step, best=step / 10) > 0
        if request.param:
            # Training continues while the checkpoint is written.
            engine.state.fill_(-1)
    checkpoints.wait_for_writes()
    return tmp_path


def test_newest_is_loaded_and_the_previous_one_is_kept(saved: Path):
    engine = Engine()
    found = Checkpoints(saved, "key").load(engine)
    assert found is not None
    assert (found["step"], found["facts"], found["ranks"]) == (10, {"best": 1.0}, 1)
    assert engine.state.eq(10).all()
    Checkpoints(saved, "key").save(engine, 12)
    assert sorted(folder.name for folder in saved.glob("step-*")) == ["step-10", "step-12", "step-4"]


@pytest.mark.parametrize("damage", ["unfinished", "torn", "corrupt", "of a rank that is missing"])
def test_falls_back_to_the_previous_one_with_a_warning(saved: Path, damage: str, caplog: pytest.LogCaptureFixture):
    newest = saved / "step-10"
    if damage == "unfinished":
        (newest / "rank-0.json").unlink()
    elif damage == "torn":
        os.truncate(newest / "state.pt", 99)
    elif damage == "corrupt":
        content = bytearray((newest / "state.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (newest / "state.pt").write_bytes(content)
    else:
        part = json.loads((newest / "rank-0.json").read_text())
        (newest / "rank-0.json").write_text(json.dumps(part | {"ranks": 2}))
    engine = Engine()
    found = Checkpoints(saved, "key").load(engine)
    assert found is not None
    assert found["step"] == 4
    assert engine.state.eq(4).all()
    assert "falling back to the previous one" in caplog.text
    assert str(newest) in caplog.text


def test_state_of_another_run_is_not_resumed(saved: Path):
    engine = Engine()
    assert Checkpoints(saved, "other").load(engine) is None
    assert engine.state.eq(0).all()


def test_nothing_saved_yet(tmp_path: Path):
    assert Checkpoints(tmp_path / "none", "key").load(Engine()) is None


def test_leftovers_of_an_earlier_attempt_are_removed(saved: Path):
    (saved / "step-12").mkdir()
    (saved / "step-12" / "rank-1.json").write_text("{}")
    checkpoints = Checkpoints(saved, "key")
    checkpoints.save(Engine(), 12)
    assert sorted(file.name for file in (saved / "step-12").iterdir()) == ["rank-0.json", "state.pt"]


def test_writing_does_not_block_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    may_write, written = threading.Event(), []

    def wait(snapshot: Snapshot, rank: int) -> dict[str, list[int]]:
        assert may_write.wait(60)
        written.append(rank)
        return {}

    monkeypatch.setattr(Snapshot, "write", wait)
    checkpoints = Checkpoints(tmp_path, "key", background=True)
    checkpoints.save(Engine(), 2)
    assert checkpoints.newest() is None
    assert not written
    may_write.set()
    checkpoints.wait_for_writes()
    assert written == [0]
    assert checkpoints.newest() is not None


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_told_and_the_checkpoint_before_stays(tmp_path: Path, background: bool):
    """A limit on the size of a file stands for the disk: the kernel refuses the same write."""
    warnings: list[str] = []
    engine, checkpoints = Engine(), Checkpoints(tmp_path, "key", background=background, on_warning=warnings.append)
    checkpoints.save(engine, 2)
    checkpoints.wait_for_writes()
    engine.state = torch.ones(1_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpoints.save(engine, 4)
        checkpoints.wait_for_writes()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step-4" in warnings[0]
    assert "could not be written" in warnings[0]
    assert not (tmp_path / "step-4" / "state.pt").exists()
    found = checkpoints.newest()
    assert found is not None
    assert found["step"] == 2
    checkpoints.save(engine, 6)
    checkpoints.wait_for_writes()
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 6


def test_host_memory_is_used_again_and_makes_compact_copies():
    pool, source = PinnedBufferPool(), torch.arange(10.0)
    first = pool.copy(source[2:4])
    assert first.untyped_storage().nbytes() == 8
    pool.rewind()
    again = pool.copy(source[5:7])
    assert again is first
    assert again.tolist() == [5, 6]
    pool.rewind()
    assert pool.copy(source) is not first
