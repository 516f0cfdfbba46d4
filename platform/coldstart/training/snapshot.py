"""A rank's part of a checkpoint: copied from the engine between two steps and written to disk during later steps.

DeepSpeed's own decoupled writer waits for the files before the next optimizer step, needs a compiled extension, and
moves live weights into shared memory. Here the engine's state is copied to host memory and written from there while
training continues.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CHUNK_BYTES = 2**24


class PinnedBufferPool:
    """Host memory for copies of tensors, pinned for GPU tensors, which the next checkpoint reuses in the same order."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []
        self._used = 0

    def rewind(self) -> None:
        """Makes all buffers available again."""
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy, which may be incomplete until `synchronize`."""
        reusable = self._used < len(self._copies) and _matches(self._copies[self._used], tensor)
        if not reusable:
            del self._copies[self._used :]
            self._copies.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda))
        copy = self._copies[self._used]
        self._used += 1
        return copy.copy_(tensor.detach(), non_blocking=True)

    def synchronize(self) -> None:
        """Waits until all copies are complete."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()


def _matches(copy: Tensor, tensor: Tensor) -> bool:
    return copy.shape == tensor.shape and copy.dtype == tensor.dtype and copy.is_pinned() == tensor.is_cuda


class Snapshot:
    """The state that an engine saves, by file, with or without a copy.

    It replaces DeepSpeed's checkpoint engine while `save_checkpoint` runs, so that nothing is written to disk then.

    Args:
        engine: A DeepSpeed engine.
        root: Directory of checkpoints.
        name: Directory of this checkpoint in `root`.
        buffers: Memory for the copies; None keeps the engine's own tensors, which must not change before `write`.
    """

    def __init__(self, engine: Any, root: Path, name: str, buffers: PinnedBufferPool | None) -> None:
        self._folder, self._buffers = root / name, buffers
        self._states: dict[Path, Any] = {}
        self._original = engine.checkpoint_engine
        if buffers is not None:
            buffers.rewind()
        engine.checkpoint_engine = self
        try:
            engine.save_checkpoint(str(root), tag=name, save_latest=False)
        finally:
            engine.checkpoint_engine = self._original
        if buffers is not None:
            buffers.synchronize()

    def __getattr__(self, name: str) -> Any:
        """All other attributes of DeepSpeed's checkpoint engine."""
        return getattr(self._original, name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Does nothing: `write` creates directories."""

    def save(self, state_dict: Any, path: str) -> None:
        """Called by DeepSpeed for each file; keeps or copies the state."""
        self._states[Path(path)] = state_dict if self._buffers is None else self._copy(state_dict)

    def write(self, rank: int) -> dict[str, list[int]]:
        """Writes this rank's files to disk.

        Returns:
            Size in bytes and CRC-32 of each file, by its path in the checkpoint.

        Raises:
            OSError: the disk is full or missing; the files written so far are removed.
        """
        try:
            for path, state in self._states.items():
                _write(path, state)
            # DeepSpeed itself copies the state on a local NVMe disk.
            offloaded = self._folder / "offloaded_tensors" / f"rank{rank:02d}"
            files = [*self._states, *(file for file in offloaded.rglob("*") if file.is_file())]
            return {str(file.relative_to(self._folder)): [file.stat().st_size, checksum(file)] for file in files}
        except OSError:
            for path in self._states:
                path.unlink(missing_ok=True)
            raise
        finally:
            self._states = {}

    def _copy(self, item: Any) -> Any:
        assert self._buffers is not None
        if isinstance(item, Tensor):
            return self._buffers.copy(item)
        if isinstance(item, dict):
            # Subclasses of dict take the same argument, and loading needs only their items.
            return type(item)((key, self._copy(value)) for key, value in item.items())
        if type(item) in (list, tuple):
            return type(item)(self._copy(value) for value in item)
        return item


def _write(path: Path, state: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:
            # Closing torch's writer raises a second error, whose context holds the cause.
            raise _find_os_error(error) or error from None
        stream.flush()
        os.fsync(stream.fileno())


def _find_os_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
