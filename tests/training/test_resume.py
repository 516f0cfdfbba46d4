"""Rank 0 decides what is resumed; a rank that sees something else says so instead of training different weights."""

import socket
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from coldstart.config import UserError
from coldstart.training.resume import load_resumable
from tests.ranks import on_ranks, preload

preload(__name__)


def step(saved: dict[str, Any]) -> int | None:
    return saved["step"] if saved["key"] == "mine" else None


CASES = {
    "both": ((4, 4), [4, 4]),
    "none": ((None, None), [None, None]),
    "only rank 1": ((None, 4), [None, None]),
    "only rank 0": ((4, None), [4, "refused"]),
    "older on rank 1": ((4, 2), [4, "refused"]),
}
"""Steps that the ranks have on their disks, and what they resume."""


def resumed(root: str) -> dict[str, list[Any]]:
    """What each rank resumes in each case from its own directory, or the error."""
    found = {}
    for case in CASES:
        try:
            saved = load_resumable(Path(root) / case / str(dist.get_rank()) / "last.pt", step)
            own: Any = None if saved is None else saved["step"]
        except UserError as error:
            own = str(error)
        found[case] = [None, None]
        dist.all_gather_object(found[case], own)
    return found


def test_rank_0_decides(tmp_path: Path) -> None:
    for case, (steps, _) in CASES.items():
        for rank, saved in enumerate(steps):
            (tmp_path / case / str(rank)).mkdir(parents=True)
            if saved is not None:
                torch.save({"step": saved, "key": "mine"}, tmp_path / case / str(rank) / "last.pt")
    found = on_ranks(2, resumed, str(tmp_path))
    for case, (_, expected) in CASES.items():
        if expected[1] == "refused":
            file = tmp_path / case / "1" / "last.pt"
            assert f"node {socket.gethostname()} does not see the checkpoint {file}" in found[case][1]
            assert "mount the storage of paths.runs" in found[case][1]
        else:
            assert found[case] == expected
        assert found[case][0] == expected[0]


def test_state_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    torch.save({"step": 4, "key": "other"}, tmp_path / "last.pt")
    assert load_resumable(tmp_path / "last.pt", step) is None
    assert load_resumable(tmp_path / "none.pt", step) is None
    assert load_resumable(None, step) is None
