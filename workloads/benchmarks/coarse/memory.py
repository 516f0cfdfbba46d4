"""Peak memory of a step by ZeRO stage, compared to `training/memory_estimate.py`, and stalls by checkpoints.

Two ranks without Ray train an encoder of 190 million parameters, whose memory is mostly not activations. The result is
the peak resident set during two steps, minus the resident set before the model was created.
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
from workloads.benchmarks.coarse import random_encoders

MODEL, RANKS = "190m", 2
ITEM = {"image_size": 56, "text_tokens": 8}
CHECKPOINTS = 3


def by_stage(train: str, dtype: str) -> list[dict[str, float]]:
    """Measured and estimated peak bytes of the largest rank, for every stage."""
    size = random_encoders.estimate_memory(MODEL, train=train, dtype=getattr(torch, dtype), checkpointing=False, **ITEM)
    results = []
    for stage in size.stages:
        peak = max(rank["peak"] for rank in _ranks("peak", stage, train, dtype))
        results.append({"stage": stage, "measured": peak, "planned": size.total(stage, RANKS, 1)})
    return results


def stalls() -> dict[str, Any]:
    """Seconds that a synchronous or background checkpoint blocks training, and its bytes."""
    results: dict[str, Any] = {}
    for name, background in (("async", "1"), ("sync", "")):
        ranks = _ranks("stall", 2, "all", "float32", background)
        results[name] = [max(seconds) for seconds in zip(*(rank["stalls"] for rank in ranks), strict=True)]
        results["bytes"] = ranks[0]["bytes"]
    return results


def _ranks(*arguments: Any) -> list[dict[str, Any]]:
    """Results of `_rank` on each of the ranks, in new processes."""
    # Freed memory is returned at once, so that the resident set is the memory in use.
    environment = dict(os.environ, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", MALLOC_MMAP_THRESHOLD_="65536")
    module = ["--standalone", "--nproc-per-node", str(RANKS), "-m", "workloads.benchmarks.coarse.memory"]
    with tempfile.TemporaryDirectory() as room:
        command = [sys.executable, "-m", "torch.distributed.run", *module, room, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return [json.loads((Path(room) / f"{rank}.json").read_text()) for rank in range(RANKS)]


def _rank(room: Path, mode: str, stage: int, train: str, dtype: str, background: bool) -> dict[str, Any]:
    # Imported before the measurement: libraries are not part of the estimate, and not in GPU memory.
    import deepspeed  # noqa: F401

    from coldstart.training.checkpoint import Checkpoints
    from coldstart.training.deepspeed_engine import deepspeed_config, start_engine

    dist.init_process_group("gloo")
    settings = Coarse(batch=RANKS, zero_stage=stage, learning_rate=1e-5)
    config = deepspeed_config(settings, dtype=dtype)
    before = _resident("VmRSS")
    encoder = random_encoders.make_encoder(
        MODEL, train=train, dtype=getattr(torch, dtype), device="cpu", checkpointing=False
    )
    inputs = random_encoders.collate(random_encoders.make_rows(encoder, 1, seed=dist.get_rank(), **ITEM))
    engine = start_engine(encoder, settings, config, total_steps=100)

    def step() -> None:
        coarse, _ = engine(inputs)
        engine.backward(coarse[:, 0].mean())
        engine.step()

    # The first step allocates the optimizer state.
    step()
    if mode == "peak":
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
    checkpoints.wait_for_writes()
    size = sum(file.stat().st_size for file in (room / "kept" / f"step-{CHECKPOINTS}").rglob("*") if file.is_file())
    return {"stalls": seconds, "bytes": size}


def _resident(kind: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(kind))


def main() -> None:
    """Runs one rank."""
    room, mode, stage, train, dtype, *background = sys.argv[1:]
    result = _rank(Path(room), mode, int(stage), train, dtype, any(background))
    (Path(room) / f"{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
