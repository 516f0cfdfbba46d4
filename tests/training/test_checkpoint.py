from pathlib import Path

import pytest

from coldstart.training.checkpoint import Checkpoints


class Engine:
    """What Checkpoints needs of a DeepSpeed engine."""

    def __init__(self) -> None:
        self.state = ""

    def save_checkpoint(self, root: str, *, tag: str, save_latest: bool) -> None:
        (Path(root) / tag).mkdir(parents=True)
        (Path(root) / tag / "state.pt").write_text(self.state)

    def load_checkpoint(self, root: str, *, tag: str) -> None:
        self.state = (Path(root) / tag / "state.pt").read_text()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    engine = Engine()
    for step in (2, 4, 10):
        engine.state = f"state at {step}"
        Checkpoints(tmp_path, "key").save(engine, step, best=step / 10)
    return tmp_path


def test_newest_comes_back_and_only_two_stay(saved: Path):
    engine = Engine()
    found = Checkpoints(saved, "key").load(engine)
    assert found is not None
    assert (found["step"], found["facts"], engine.state) == (10, {"best": 1.0}, "state at 10")
    assert (saved / "latest").read_text() == "step-10"
    assert sorted(folder.name for folder in saved.glob("step-*")) == ["step-10", "step-4"]


@pytest.mark.parametrize("damage", ["unfinished", "torn"])
def test_falls_back_to_the_one_before_and_says_so(saved: Path, damage: str, caplog: pytest.LogCaptureFixture):
    if damage == "unfinished":
        (saved / "step-10" / "complete.json").unlink()
    else:
        (saved / "step-10" / "state.pt").write_text("sta")
    engine = Engine()
    found = Checkpoints(saved, "key").load(engine)
    assert found is not None
    assert (found["step"], engine.state) == (4, "state at 4")
    assert "step-10 is incomplete" in caplog.text


def test_state_of_another_run_is_not_resumed(saved: Path):
    engine = Engine()
    assert Checkpoints(saved, "other").load(engine) is None
    assert engine.state == ""


def test_nothing_saved_yet(tmp_path: Path):
    assert Checkpoints(tmp_path / "none", "key").load(Engine()) is None
