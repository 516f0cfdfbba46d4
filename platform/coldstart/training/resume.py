"""Which saved state a training resumes: rank 0 decides, because ranks may see storage differently."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from coldstart.config import UserError
from coldstart.training.distributed import device, of_rank_zero


def load_resumable(path: Path | None, identify: Callable[[dict[str, Any]], Any]) -> dict[str, Any] | None:
    """The saved state that every rank resumes, or None on every rank. Called by all ranks.

    Args:
        path: File of the state, on storage shared by all ranks; None if nothing is saved.
        identify: Maps a state to what identifies it, or to None if it must not be resumed.

    Raises:
        UserError: this rank does not see the state that rank 0 resumes.
    """
    saved: dict[str, Any] | None = None
    if path is not None and path.is_file():
        saved = torch.load(path, map_location=device(), weights_only=True)
    own = None if saved is None else identify(saved)
    agreed, leader = of_rank_zero((own, socket.gethostname()))
    if agreed is None:
        return None
    if own != agreed:
        raise UserError(
            f"node {socket.gethostname()} does not see the checkpoint {path} that rank 0 on node {leader} resumes; "
            "mount the storage of paths.runs under the same path on every node"
        )
    return saved
