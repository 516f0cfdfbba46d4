"""A rank's share of a checkpoint: taken out of the engine between two steps, on disk when the disk is done with it.

DeepSpeed's own decoupled writer waits for the files before the next optimizer step, needs a compiled extension, and
moves live weights into shared memory. Here, what the engine would write is copied to host memory, and written from
there while the steps go on.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PIECE_BYTES = 2**24


class HostMemory:
    """Copies of tensors in host memory that is used again for the next copies, in the order they are asked for."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []
        self._used = 0

    def rewind(self) -> None:
        """Gives all of it up to be used again."""
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy, which a GPU may still be writing until `settle`."""
        fits = self._used < len(self._copies) and _same(self._copies[self._used], tensor)
        if not fits:
            del self._copies[self._used :]
            self._copies.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda))
        copy = self._copies[self._used]
        self._used += 1
        return copy.copy_(tensor.detach(), non_blocking=True)

    def settle(self) -> None:
        """Waits until all copies are made."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()


def _same(copy: Tensor, tensor: Tensor) -> bool:
    return copy.shape == tensor.shape and copy.dtype == tensor.dtype and copy.is_pinned() == tensor.is_cuda


class Snapshot:
    """What an engine saves, by file: as it is, or copied so that the engine may go on.

    It stands in the place of DeepSpeed's checkpoint engine while `save_checkpoint` runs, which then touches no disk.

    Args:
        engine: A DeepSpeed engine.
        root: Directory of checkpoints.
        name: Of this one, a directory within.
        memory: Where copies go; `None` keeps the engine's own tensors, which must not change before `write`.
    """

    def __init__(self, engine: Any, root: Path, name: str, memory: HostMemory | None) -> None:
        self._folder, self._memory = root / name, memory
        self._states: dict[Path, Any] = {}
        self._usual = engine.checkpoint_engine
        if memory is not None:
            memory.rewind()
        engine.checkpoint_engine = self
        try:
            engine.save_checkpoint(str(root), tag=name, save_latest=False)
        finally:
            engine.checkpoint_engine = self._usual
        if memory is not None:
            memory.settle()

    def __getattr__(self, name: str) -> Any:
        """Whatever else DeepSpeed asks of its checkpoint engine."""
        return getattr(self._usual, name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Directories are made by `write`."""

    def save(self, state_dict: Any, path: str) -> None:
        """What DeepSpeed calls instead of writing a file."""
        self._states[Path(path)] = state_dict if self._memory is None else self._copied(state_dict)

    def write(self, rank: int) -> dict[str, list[int]]:
        """Writes this rank's files to disk.

        Returns:
            Name within the checkpoint -> size in bytes and CRC-32.

        Raises:
            OSError: the disk is full, or gone; what was written until then is removed.
        """
        try:
            for path, state in self._states.items():
                _write(path, state)
            # What lies on a local NVMe disk is copied by DeepSpeed itself.
            offloaded = self._folder / "offloaded_tensors" / f"rank{rank:02d}"
            files = [*self._states, *(file for file in offloaded.rglob("*") if file.is_file())]
            return {str(file.relative_to(self._folder)): [file.stat().st_size, checksum(file)] for file in files}
        except OSError:
            for path in self._states:
                path.unlink(missing_ok=True)
            raise
        finally:
            self._states = {}

    def _copied(self, item: Any) -> Any:
        assert self._memory is not None
        if isinstance(item, Tensor):
            return self._memory.copy(item)
        if isinstance(item, dict):
            # Dictionaries of other kinds take the same argument; what they hold is all that is loaded.
            return type(item)((key, self._copied(value)) for key, value in item.items())
        if type(item) in (list, tuple):
            return type(item)(self._copied(value) for value in item)
        return item


def _write(path: Path, state: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:
            # Torch's writer fails once more when it is closed after the failure that says why.
            raise _told_by_system(error) or error from None
        stream.flush()
        os.fsync(stream.fileno())


def _told_by_system(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            value = zlib.crc32(piece, value)
    return value
