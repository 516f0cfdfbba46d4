"""Loads a checkpoint with another number of ranks, through DeepSpeed's universal checkpoint format.

ZeRO keeps a part of the optimizer state on each rank. The universal format holds every full parameter with its moments,
and each rank loads its new part from there. The state is bit-identical; later sums over ranks are not, since they add
in another order.
"""

import contextlib
import io
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from coldstart.config import UserError
from coldstart.training.distributed import barrier, rank, world_size


def load_resharded(engine: Any, root: Path, name: str, *, ranks: int) -> None:
    """Loads a checkpoint of `ranks` ranks into an engine with the current number of ranks. Called by all ranks.

    Args:
        engine: A DeepSpeed engine that has not yet trained.
        root: Directory of checkpoints, with space for another copy of this one.
        name: Directory of the checkpoint in `root`.
        ranks: Number of ranks that saved it.

    Raises:
        UserError: DeepSpeed cannot reshard the state of this engine.
    """
    if not list((root / name).glob("*_optim_states.pt")):
        # Without ZeRO every rank has the same state, and one rank saved it.
        engine.load_checkpoint(str(root), tag=name)
        return
    if engine.zero_nvme_offload_optimizer():
        raise UserError(
            f"method.coarse.offload.optimizer nvme: a checkpoint of {ranks} ranks cannot be continued with "
            f"{world_size()}, as its state is on the disks of those ranks; set cluster.workers: {ranks}, or restart "
            "without offload"
        )
    universal = f"universal-{name}"
    if rank() == 0:
        shutil.rmtree(root / universal, ignore_errors=True)
        _convert(root / name, root / universal)
    barrier()
    groups = engine.optimizer.param_groups
    decays = [group["weight_decay"] for group in groups]
    # A configuration value, but the checkpoint to resume is known only after the engine exists.
    engine._config.load_universal_checkpoint = True
    try:
        engine.load_checkpoint(str(root), tag=universal)
    finally:
        engine._config.load_universal_checkpoint = False
    _repair(engine, decays)
    barrier()
    if rank() == 0:
        shutil.rmtree(root / universal)


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    arguments = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        # More workers would be forked from a process with threads.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # It prints progress bars and every step.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)


def _repair(engine: Any, decays: list[float]) -> None:
    """Corrects state that DeepSpeed 0.19 loads wrongly with ZeRO-3 and more than one parameter group."""
    optimizer = engine.optimizer.optimizer
    # All groups got the settings of the first.
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    # All groups share one step counter, which would advance once per group.
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()
