"""Processes of tests: the ranks of a training, and programs that die.

They are forked from one server process, which has imported what they need. An interpreter of its own would import
PyTorch again: seconds of processor time for each rank.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_START = "forkserver"
_LONGEST = 400.0  # s
_preloaded = ["tests.ranks", "torch._dynamo"]  # The latter by every optimizer.


def preload(*modules: str) -> None:
    """Modules that the server imports, once for all processes; a test module names them when it is imported."""
    _preloaded.extend(modules)
    multiprocessing.get_context(_START).set_forkserver_preload(_preloaded)


def exit_codes(*calls: Callable[[], object]) -> list[int | None]:
    """Makes the calls at the same time, each in a process; returns the exit codes, None of a call that does not end."""
    processes = [multiprocessing.get_context(_START).Process(target=call, daemon=True) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_LONGEST)
    return [process.exitcode for process in processes]


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs `function(*arguments)` on `world` gloo ranks and returns what rank 0 returned."""
    with tempfile.TemporaryDirectory() as room:
        mp.start_processes(_rank, (world, room, function, arguments), nprocs=world, start_method=_START)
        return torch.load(Path(room) / "out.pt", weights_only=True)


def _rank(rank: int, world: int, room: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{room}/meet", rank=rank, world_size=world)
    out = function(*arguments)
    if rank == 0:
        torch.save(out, Path(room) / "out.pt")
    dist.barrier()
    # gloo's threads may still be running, and tearing them down with the interpreter aborts now and then.
    os._exit(0)
