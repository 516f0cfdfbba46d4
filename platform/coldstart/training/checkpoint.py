"""Resumable checkpoints: engine state of all ranks under one directory per step, complete or not there at all."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from coldstart.training.ranks import barrier, rank, world_size

COMPLETE = "complete.json"
LATEST = "latest"
log = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints of one training.

    A checkpoint counts once `complete.json` lists its files; only then is `latest` moved and an older one removed.
    Engine state is pickled by torch, so the directory must be storage that only this project writes.

    Attributes:
        root: Directory that all ranks see.
        key: What the state depends on; a checkpoint with another key is not resumed.
    """

    def __init__(self, root: Path, key: str, *, keep: int = 2) -> None:
        """`keep` newest ones stay."""
        self.root = root
        self.key = key
        self._keep = keep

    def save(self, engine: Any, step: int, **facts: float) -> None:
        """Saves the engine after `step` steps, with facts to be read back. Called by all ranks."""
        name = f"step-{step}"
        if rank() == 0:
            shutil.rmtree(self.root / name, ignore_errors=True)
        barrier()
        engine.save_checkpoint(str(self.root), tag=name, save_latest=False)
        barrier()
        if rank() == 0:
            folder = self.root / name
            sizes = {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
            whole = {"step": step, "key": self.key, "ranks": world_size(), "files": sizes, "facts": facts}
            _write(folder / COMPLETE, json.dumps(whole))
            _write(self.root / LATEST, name)
            for old in self._steps()[self._keep :]:
                shutil.rmtree(old)
        barrier()

    def newest(self) -> dict[str, Any] | None:
        """`step` and `facts` of the newest complete checkpoint with this key."""
        for folder in self._steps():
            about = _read(folder)
            if about is None:
                log.warning("checkpoint %s is incomplete; falling back to the one before", folder)
            elif about["key"] == self.key:
                return about
        return None

    def load(self, engine: Any) -> dict[str, Any] | None:
        """Puts the newest complete checkpoint into the engine and returns what `newest` does. Called by all ranks."""
        about = self.newest()
        barrier()
        if about is not None:
            engine.load_checkpoint(str(self.root), tag=f"step-{about['step']}")
        return about

    def clear(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _steps(self) -> list[Path]:
        """Newest first."""
        return sorted(self.root.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


def _read(folder: Path) -> dict[str, Any] | None:
    if not (folder / COMPLETE).is_file():
        return None
    about: dict[str, Any] = json.loads((folder / COMPLETE).read_text())
    files = ((folder / name, size) for name, size in about["files"].items())
    return about if all(file.is_file() and file.stat().st_size == size for file, size in files) else None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)
