"""Rank, world size and collectives that also work without a process group, so that trainers run anywhere."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Rank of this process; 0 when not distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 when not distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Waits for all ranks; does nothing when not distributed."""
    if dist.is_initialized():
        dist.barrier()


def all_gather(rows: Tensor) -> Tensor:
    """Rows `[n, ...]` of all ranks in order of rank `[ranks * n, ...]`, without gradient."""
    rows = rows.detach().contiguous()
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def device() -> torch.device:
    """This rank's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
