"""Rank, world size and collectives that also work without a process group, so that trainers run anywhere."""

from typing import Any

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


def all_gather_with_gradient(rows: Tensor) -> Tensor:
    """Rows `[n, ...]` of all ranks in order of rank; the gradients of all ranks for a row reach the rank that has it.

    All ranks must gather equal shapes, and run backward through the result.
    """
    gathered: Tensor = _Gather.apply(rows) if dist.is_initialized() else rows  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.length = len(rows)
        return all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.length :][: ctx.length]


def of_rank_zero(value: Any) -> Any:
    """The value of rank 0, a small picklable object, on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, device=device())
    return values[0]


def device() -> torch.device:
    """This rank's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
