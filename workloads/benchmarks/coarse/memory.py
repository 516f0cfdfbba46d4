"""Peak memory of a step by ZeRO stage against `training/footprint.py`, and how long checkpoints hold it up.

Two ranks without Ray train an encoder of 190 million parameters, most of whose memory is not activations. What is
measured is the resident set at its highest during two steps, above what it was before the model was made.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from coldstart.config.recipe import Coarse
from workloads.benchmarks.coarse import bare

MODEL, RANKS = "190m", 2
ITEM = {"picture_size": 56, "text_tokens": 8}
CHECKPOINTS = 3


def by_stage(train: str, dtype: str) -> list[dict[str, float]]:
    """Bytes at the peak and as planned, of the rank that holds most, for every stage."""
    size = bare.footprint(MODEL, train=train, dtype=getattr(torch, dtype), checkpointing=False, **ITEM)
    found = []
    for stage in size.stages:
        peak = max(rank["peak"] for rank in _ranks("peak", stage, train, dtype))
        found.append({"stage": stage, "measured": peak, "planned": size.total(stage, RANKS, 1)})
    return found


def stalls() -> dict[str, Any]:
    """Seconds that a checkpoint holds up training, written meanwhile and written at once; bytes of it."""
    found: dict[str, Any] = {}
    for name, background in (("async", "1"), ("sync", "")):
        told = _ranks("stall", 2, "all", "float32", background)
        found[name] = [max(seconds) for seconds in zip(*(rank["stalls"] for rank in told), strict=True)]
        found["bytes"] = told[0]["bytes"]
    return found


def _ranks(*arguments: Any) -> list[dict[str, Any]]:
    """What `_rank` tells on each of the ranks, in fresh processes."""
    # Freed memory goes back at once, so that the resident set is what is in use.
    environment = dict(os.environ, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", MALLOC_MMAP_THRESHOLD_="65536")
    module = ["--standalone", "--nproc-per-node", str(RANKS), "-m", "workloads.benchmarks.coarse.memory"]
    with tempfile.TemporaryDirectory() as room:
        command = [sys.executable, "-m", "torch.distributed.run", *module, room, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return [json.loads((Path(room) / f"{rank}.json").read_text()) for rank in range(RANKS)]


def _rank(room: Path, what: str, stage: int, train: str, dtype: str, background: bool) -> dict[str, Any]:
    # Programs are not planned; on a GPU they would not lie in its memory.
    import deepspeed  # noqa: F401

    from coldstart.training.checkpoint import Checkpoints
    from coldstart.training.deepspeed_engine import deepspeed_config, start_engine

    dist.init_process_group("gloo")
    settings = Coarse(batch=RANKS, zero_stage=stage, learning_rate=1e-5)
    config = deepspeed_config(settings, dtype=dtype)
    before = _resident("VmRSS")
    encoder = bare.make_encoder(MODEL, train=train, dtype=getattr(torch, dtype), device="cpu", checkpointing=False)
    inputs = bare.collate(bare.make_rows(encoder, 1, seed=dist.get_rank(), **ITEM))
    engine = start_engine(encoder, settings, config, total_steps=100)

    def step() -> None:
        coarse, _ = engine(inputs)
        engine.backward(coarse[:, 0].mean())
        engine.step()

    # The first one makes the optimizer's states.
    step()
    if what == "peak":
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        step()
        step()
        return {"peak": _resident("VmHWM") - before}
    checkpoints, seconds = Checkpoints(room / "kept", "bench", background=background), []
    for number in range(CHECKPOINTS):
        for _ in range(4):
            step()
        seconds.append(checkpoints.save(engine, number + 1))
    checkpoints.settle()
    whole = sum(file.stat().st_size for file in (room / "kept" / f"step-{CHECKPOINTS}").rglob("*") if file.is_file())
    return {"stalls": seconds, "bytes": whole}


def _resident(kind: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(kind))


def main() -> None:
    """One of the ranks."""
    room, what, stage, train, dtype, *background = sys.argv[1:]
    told = _rank(Path(room), what, int(stage), train, dtype, any(background))
    (Path(room) / f"{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
