"""Resumable checkpoints: engine state of all ranks under one directory per step, complete or not there at all."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from coldstart.training.ranks import barrier, rank, world_size
from coldstart.training.resharding import load_resharded
from coldstart.training.snapshot import HostMemory, Snapshot, checksum

log = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints of one training.

    A rank that has written its files says so in `rank-<n>.json`; the checkpoint counts once all ranks have, and only
    then is an older one removed. No rank waits for another to write.
    Engine state is pickled by torch, so the directory must be storage that only this project writes.

    Attributes:
        root: Directory that all ranks see.
        key: What the state depends on; a checkpoint with another key is not resumed.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        *,
        keep: int = 2,
        background: bool = False,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        """`keep` newest ones stay; `background` writes them while the caller goes on; `tell` hears what went wrong."""
        self.root = root
        self.key = key
        self._keep = keep
        self._memory = HostMemory() if background else None
        self._tell = tell
        self._writer: threading.Thread | None = None
        self._problem: str | None = None

    def save(self, engine: Any, step: int, **facts: float) -> float:
        """Saves the engine after `step` steps, with facts to be read back. Called by all ranks.

        A checkpoint that cannot be written is told at the next call and is no reason to stop: the one before stays.

        Returns:
            Seconds that the caller waited.
        """
        began = time.perf_counter()
        self.settle()
        if rank() == 0:
            self._make_room(step)
        barrier()
        snapshot = Snapshot(engine, self.root, f"step-{step}", self._memory)
        part = {"step": step, "key": self.key, "ranks": world_size(), "facts": facts}
        if self._memory is None:
            self._write(snapshot, part, rank())
        else:
            self._writer = threading.Thread(target=self._write, args=(snapshot, part, rank()))
            self._writer.start()
        return time.perf_counter() - began

    def settle(self) -> None:
        """Waits until what is being written is on disk, or told to have failed. Called by all ranks."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        problems = [problem for problem in _of_all_ranks(self._problem) if problem]
        self._problem = None
        if problems and rank() == 0:
            self._tell(f"a checkpoint could not be written: {problems[0]}; training goes on, free some space")
            self._remove_all_but(1)

    def newest(self, *, before: int | None = None) -> dict[str, Any] | None:
        """`step`, `ranks` and `facts` of the newest complete checkpoint with this key (before a step)."""
        for folder in self._folders():
            if before is not None and _step(folder) >= before:
                continue
            about = _read(folder)
            if about is None:
                self._tell(f"checkpoint {folder} is incomplete; falling back to the one before")
            elif about["key"] == self.key:
                return about
        return None

    def load(self, engine: Any) -> dict[str, Any] | None:
        """Puts the newest intact checkpoint into the engine and returns what `newest` does. Called by all ranks.

        It may have been saved by another number of ranks.

        Raises:
            UserError: it was, and this engine's state cannot be cut anew.
        """
        about = self._newest_intact()
        if about is None:
            return None
        name = f"step-{about['step']}"
        if about["ranks"] == world_size():
            engine.load_checkpoint(str(self.root), tag=name)
            return about
        load_resharded(engine, self.root, name, ranks=about["ranks"])
        if rank() == 0:
            self._tell(f"the checkpoint of {about['ranks']} ranks goes on with {world_size()} at step {about['step']}")
        return about

    def clear(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _write(self, snapshot: Snapshot, part: dict[str, Any], number: int) -> None:
        """Writes a rank's files and then says so; runs beside the training if that is wanted."""
        folder = self.root / f"step-{part['step']}"
        try:
            files = snapshot.write(number)
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".rank-{number}.draft"
            draft.write_text(json.dumps(part | {"files": files}))
            draft.replace(folder / f"rank-{number}.json")
        except OSError as error:
            self._problem = f"{folder} on rank {number}: {error}"

    def _make_room(self, step: int) -> None:
        """Removes what is too old, and whatever an earlier attempt left of this step."""
        self._remove_all_but(self._keep)
        shutil.rmtree(self.root / f"step-{step}", ignore_errors=True)

    def _remove_all_but(self, kept: int) -> None:
        complete = [folder for folder in self._folders() if _read(folder) is not None]
        for folder in self._folders():
            if len(complete) >= kept and _step(folder) < _step(complete[kept - 1]):
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Newest first."""
        return sorted(self.root.glob("step-*"), key=_step, reverse=True)

    def _newest_intact(self) -> dict[str, Any] | None:
        """The newest whose files are what was written; rank 0 looks, as others may see storage at another time."""
        before = None
        while True:
            about: dict[str, Any] | None = _of_all_ranks(self.newest(before=before) if rank() == 0 else None)[0]
            if about is None:
                return None
            folder = self.root / f"step-{about['step']}"
            damaged = [name for names in _of_all_ranks(self._damaged(folder)) for name in names]
            if not damaged:
                return about
            if rank() == 0:
                self._tell(f"checkpoint {folder} is damaged ({damaged[0]}); falling back to the one before")
            before = about["step"]

    def _damaged(self, folder: Path) -> list[str]:
        """Files of this rank's part, and of every so manieth one, that are not what was written."""
        found = []
        for number in range(rank(), json.loads((folder / "rank-0.json").read_text())["ranks"], world_size()):
            files = json.loads((folder / f"rank-{number}.json").read_text())["files"]
            found += [name for name, (_, crc) in files.items() if checksum(folder / name) != crc]
        return found


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _read(folder: Path) -> dict[str, Any] | None:
    """What rank 0 wrote, if all ranks of that time have written theirs and all files have their size."""
    about: dict[str, Any] | None = None
    number, ranks = 0, 1
    while number < ranks:
        part = folder / f"rank-{number}.json"
        if not part.is_file():
            return None
        told: dict[str, Any] = json.loads(part.read_text())
        files = ((folder / name, size) for name, (size, _) in told["files"].items())
        if not all(file.is_file() and file.stat().st_size == size for file, size in files):
            return None
        about = about or told
        number, ranks = number + 1, about["ranks"]
    return about


def _of_all_ranks(mine: Any) -> list[Any]:
    """What every rank has, in order of rank."""
    if not dist.is_initialized():
        return [mine]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
