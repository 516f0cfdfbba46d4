"""A checkpoint that was saved by another number of ranks: cut anew by way of DeepSpeed's universal format.

ZeRO keeps a share of the optimizer's state on each rank. The universal format holds every parameter whole, with its
moments, and each rank takes its new share from there. What is taken is the same to the bit; sums over ranks are not,
since another number of them adds in another order.
"""

import contextlib
import io
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from coldstart.config import UserError
from coldstart.training.ranks import barrier, rank, world_size


def load_resharded(engine: Any, root: Path, name: str, *, ranks: int) -> None:
    """Puts a checkpoint of `ranks` ranks into an engine of as many as there are now. Called by all ranks.

    Args:
        engine: A DeepSpeed engine that has not yet trained.
        root: Directory of checkpoints; has room for another copy of this one.
        name: Of the checkpoint, a directory within.
        ranks: How many saved it.

    Raises:
        UserError: DeepSpeed cannot cut this engine's state anew.
    """
    if not list((root / name).glob("*_optim_states.pt")):
        # Without ZeRO every rank has the same state, and one has saved it.
        engine.load_checkpoint(str(root), tag=name)
        return
    if engine.zero_nvme_offload_optimizer():
        raise UserError(
            f"coarse.offload.optimizer nvme: a checkpoint of {ranks} ranks cannot go on with {world_size()}, its state "
            f"lies on the disks of those ranks; set cluster.workers: {ranks}, or start anew without offload"
        )
    whole = f"whole-{name}"
    if rank() == 0:
        shutil.rmtree(root / whole, ignore_errors=True)
        _convert(root / name, root / whole)
    barrier()
    groups = engine.optimizer.param_groups
    decays = [group["weight_decay"] for group in groups]
    # A setting of the engine's configuration, but which checkpoint is resumed is known only once there is an engine.
    engine._config.load_universal_checkpoint = True
    try:
        engine.load_checkpoint(str(root), tag=whole)
    finally:
        engine._config.load_universal_checkpoint = False
    _mend(engine, decays)
    barrier()
    if rank() == 0:
        shutil.rmtree(root / whole)


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    arguments = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        # More would be processes forked from one that has threads.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # It draws bars and prints every step of its own.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)


def _mend(engine: Any, decays: list[float]) -> None:
    """Puts right what DeepSpeed 0.19 loads wrongly with ZeRO-3 when there is more than one group of parameters."""
    optimizer = engine.optimizer.optimizer
    # All groups get the settings of the first.
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    # All groups count their steps in one tensor, which then advances once for each.
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()
