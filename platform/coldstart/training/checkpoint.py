"""Resumable checkpoints: the engine state of all ranks in one directory per step; incomplete ones are ignored."""

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from coldstart.config import UserError
from coldstart.training.distributed import barrier, rank, world_size
from coldstart.training.resharding import load_resharded
from coldstart.training.snapshot import PinnedBufferPool, Snapshot, checksum

log = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints of one training.

    After writing its files a rank writes `rank-<n>.json`. A checkpoint is complete when all ranks have done so, and
    older ones are removed only then. No rank waits for the writes of another.
    Torch pickles the engine state, so only this project may have write access to the directory.

    Attributes:
        root: Directory on storage shared by all ranks.
        key: Digest of everything that the state depends on; checkpoints with another key are not resumed.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        *,
        keep: int = 2,
        background: bool = False,
        on_warning: Callable[[str], None] = log.warning,
    ) -> None:
        """Keeps the `keep` newest checkpoints, and writes them in the background with `background`."""
        self.root = root
        self.key = key
        self._keep = keep
        self._buffers = PinnedBufferPool() if background else None
        self._on_warning = on_warning
        self._writer: threading.Thread | None = None
        self._error: str | None = None

    def save(self, engine: Any, step: int, **facts: float) -> float:
        """Saves the engine after `step` steps, and `facts` with it. Called by all ranks.

        If a checkpoint cannot be written, the next call warns; the previous checkpoint stays and training continues.

        Returns:
            Seconds that the call took.
        """
        start = time.perf_counter()
        self.wait_for_writes()
        if rank() == 0:
            self._prepare(step)
        barrier()
        snapshot = Snapshot(engine, self.root, f"step-{step}", self._buffers)
        part = {"step": step, "key": self.key, "ranks": world_size(), "facts": facts}
        if self._buffers is None:
            self._write(snapshot, part, rank())
        else:
            self._writer = threading.Thread(target=self._write, args=(snapshot, part, rank()))
            self._writer.start()
        return time.perf_counter() - start

    def wait_for_writes(self) -> None:
        """Waits until background writes have finished, and warns if they failed. Called by all ranks."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        errors = [error for error in _of_all_ranks(self._error) if error]
        self._error = None
        if errors and rank() == 0:
            self._on_warning(f"a checkpoint could not be written: {errors[0]}; training continues, free disk space")
            self._remove_all_but(1)

    def newest(self, *, before: int | None = None) -> dict[str, Any] | None:
        """`step`, `ranks` and `facts` of the newest complete checkpoint with this key (before a step)."""
        for folder in self._folders():
            if before is not None and _step(folder) >= before:
                continue
            info = _read(folder)
            if info is None:
                self._on_warning(f"checkpoint {folder} is incomplete; falling back to the previous one")
            elif info["key"] == self.key:
                return info
        return None

    def load(self, engine: Any) -> dict[str, Any] | None:
        """Loads the newest intact checkpoint into the engine and returns its `newest` entry. Called by all ranks.

        Another number of ranks may have saved it.

        Raises:
            UserError: another number of ranks saved it, and this engine's state cannot be resharded.
        """
        info = self._newest_intact()
        if info is None:
            return None
        name = f"step-{info['step']}"
        if info["ranks"] == world_size():
            engine.load_checkpoint(str(self.root), tag=name)
            return info
        load_resharded(engine, self.root, name, ranks=info["ranks"])
        if rank() == 0:
            self._on_warning(
                f"the checkpoint of {info['ranks']} ranks is continued with {world_size()} at step {info['step']}"
            )
        return info

    def clear(self) -> None:
        """Removes all checkpoints."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _write(self, snapshot: Snapshot, part: dict[str, Any], number: int) -> None:
        """Writes a rank's files and then its `rank-<n>.json`; may run in a thread."""
        folder = self.root / f"step-{part['step']}"
        try:
            files = snapshot.write(number)
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".rank-{number}.draft"
            draft.write_text(json.dumps(part | {"files": files}))
            draft.replace(folder / f"rank-{number}.json")
        except OSError as error:
            self._error = f"{folder} on rank {number}: {error}"

    def _prepare(self, step: int) -> None:
        """Removes old checkpoints, and files that an earlier attempt left for this step."""
        self._remove_all_but(self._keep)
        shutil.rmtree(self.root / f"step-{step}", ignore_errors=True)

    def _remove_all_but(self, keep: int) -> None:
        complete = [folder for folder in self._folders() if _read(folder) is not None]
        for folder in self._folders():
            if len(complete) >= keep and _step(folder) < _step(complete[keep - 1]):
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Folders of all checkpoints, newest first."""
        return sorted(self.root.glob("step-*"), key=_step, reverse=True)

    def _newest_intact(self) -> dict[str, Any] | None:
        """The newest checkpoint with correct checksums; rank 0 selects it, as ranks may see storage differently."""
        before = None
        while True:
            info: dict[str, Any] | None = _of_all_ranks(self.newest(before=before) if rank() == 0 else None)[0]
            if info is None:
                return None
            folder = self.root / f"step-{info['step']}"
            damaged = [name for names in _of_all_ranks(self._damaged(folder)) for name in names]
            if not damaged:
                return info
            if rank() == 0:
                self._on_warning(f"checkpoint {folder} is damaged ({damaged[0]}); falling back to the previous one")
            before = info["step"]

    def _damaged(self, folder: Path) -> list[str]:
        """Corrupt files among this rank's shards; the ranks divide the shards among them."""
        if not (folder / "rank-0.json").is_file():
            raise UserError(
                f"node {socket.gethostname()} does not see the checkpoint {folder} that rank 0 resumes; mount the "
                "storage of paths.runs under the same path on every node"
            )
        damaged = []
        for number in range(rank(), json.loads((folder / "rank-0.json").read_text())["ranks"], world_size()):
            files = json.loads((folder / f"rank-{number}.json").read_text())["files"]
            damaged += [name for name, (_, crc) in files.items() if checksum(folder / name) != crc]
        return damaged


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _read(folder: Path) -> dict[str, Any] | None:
    """The `rank-0.json` of a checkpoint if all ranks have written theirs and all files have the right size."""
    info: dict[str, Any] | None = None
    number, ranks = 0, 1
    while number < ranks:
        part = folder / f"rank-{number}.json"
        if not part.is_file():
            return None
        content: dict[str, Any] = json.loads(part.read_text())
        files = ((folder / name, size) for name, (size, _) in content["files"].items())
        if not all(file.is_file() and file.stat().st_size == size for file, size in files):
            return None
        info = info or content
        number, ranks = number + 1, info["ranks"]
    return info


def _of_all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in order of rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
