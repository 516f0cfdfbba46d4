"""Speed and memory of coarse alignment on one machine without Ray: a model of real size with random weights.

    pip install torch transformers pydantic pyarrow pillow  # peft for --train adapters; deepspeed is optional
    PYTHONPATH=platform:. python -m workloads.benchmarks.coarse_gpu --model qwen2.5-vl-3b --train all --checkpointing

The default micro-batch is the largest that, according to `coldstart plan`, fits this machine.
Prints one JSON line: items and tokens per second with a new batch from host memory at every step and, as the ceiling,
with one batch that stays on the device; MFU and HFU against the data sheet's peak, as in training, and against the
measured speed of large matrix products; and the measured and the estimated peak memory.
"""

import argparse
import importlib.util
import json
import os
import socket
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coldstart.config.recipe import Coarse
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import count_parameters
from coldstart.modules.info_nce import Targets, info_nce
from coldstart.training.flops import FlopCounter
from coldstart.training.throughput import matmul_ceiling, peak_flops, wait
from coldstart.training.zero_plan import best_plan, candidate_plans
from workloads.benchmarks.coarse.random_encoders import (
    SHAPES,
    TRAINED,
    Inputs,
    collate,
    estimate_memory,
    make_encoder,
    make_rows,
)

MAX_ITEMS = 256
"""Limit of a micro-batch; larger ones are not faster."""
WARM_UP = 2
STAGE = 2
"""ZeRO stage; on one rank it partitions nothing, but stage 2 needs the least memory."""


class TorchEngine:
    """AdamW on float32 copies of the weights, for machines without DeepSpeed.

    Attributes:
        module: The encoder.
    """

    def __init__(self, module: Encoder) -> None:
        """Copies the trainable weights."""
        self.module = module
        self._weights = [weight for _, weight in module.trainable_parameters()]
        self._masters = [weight.detach().float().clone() for weight in self._weights]
        self._optimizer = torch.optim.AdamW(self._masters, lr=1e-5, fused=self._weights[0].is_cuda)

    def __call__(self, inputs: Inputs) -> Any:
        """Runs the module."""
        return self.module(inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients."""
        loss.backward()

    def step(self) -> None:
        """Clips the gradients, updates the weights and clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for master, weight in zip(self._masters, self._weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)


def make_engine(encoder: Encoder, *, dtype: str, micro_batch: int) -> Any:
    """The engine of coarse alignment if DeepSpeed is installed, else `TorchEngine`."""
    if importlib.util.find_spec("deepspeed") is None:
        return TorchEngine(encoder)
    from coldstart.training.deepspeed_engine import deepspeed_config, start_engine

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)
    settings = Coarse(batch=micro_batch, zero_stage=STAGE, learning_rate=1e-5)
    return start_engine(encoder, settings, deepspeed_config(settings, dtype=dtype), total_steps=10_000)


def measure(engine: Any, batches: list[Inputs], *, where: torch.device, steps: int) -> float:
    """Seconds of a step: forward, InfoNCE, backward, clipping, AdamW; includes moving batches to the device."""
    items = len(batches[0]["input_ids"])
    generator = torch.Generator().manual_seed(0)
    ids = F.normalize(torch.randn(items, engine.module.width, generator=generator), dim=1).to(where)
    targets = Targets(ids, torch.arange(items, device=where), None)
    temperature = torch.tensor(0.07, device=where)
    start = 0.0
    for step in range(-WARM_UP, steps):
        if step == 0:
            wait(where)
            start = time.perf_counter()
        coarse, _ = engine(_on(batches[step % len(batches)], where))
        engine.backward(info_nce(coarse, targets, targets, temperature=temperature).mean())
        engine.step()
    wait(where)
    return (time.perf_counter() - start) / steps


def _on(batch: Inputs, where: torch.device) -> Inputs:
    return {name: column.to(where, non_blocking=True) for name, column in batch.items()}


def plan(arguments: argparse.Namespace, where: torch.device, item: dict[str, int]) -> tuple[int, float]:
    """Items of a micro-batch, and the estimated GiB of a step with them."""
    options = {"train": arguments.train, "dtype": getattr(torch, arguments.dtype)}
    size = estimate_memory(arguments.model, checkpointing=arguments.checkpointing, **options, **item)
    if arguments.micro_batch:
        return arguments.micro_batch, size.total(STAGE, 1, arguments.micro_batch) / 2**30
    memory = torch.cuda.mem_get_info()[0] if where.type == "cuda" else _free_memory()
    choice = best_plan(
        [row for row in candidate_plans(size, ranks=1, share=MAX_ITEMS, memory=memory) if row.stage == STAGE]
    )
    if choice is None:
        raise SystemExit(f"not one item fits into {memory / 2**30:.1f} GiB: add --checkpointing or --train adapters")
    return choice.micro_batch, choice.total / 2**30


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs both measurements and returns all results."""
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, arguments.dtype)
    item = {"image_size": arguments.image_size, "text_tokens": arguments.text_tokens}
    micro_batch, planned = plan(arguments, where, item)
    torch.manual_seed(0)
    encoder = make_encoder(
        arguments.model, train=arguments.train, dtype=dtype, device=where.type, checkpointing=arguments.checkpointing
    )
    counter, counts = FlopCounter(encoder), count_parameters(encoder)
    rows = [make_rows(encoder, micro_batch, seed=seed, **item) for seed in range(2)]
    lengths = np.full(micro_batch, rows[0]["input_ids"].shape[1])
    flops = counter.count(rows[0], lengths, [np.arange(micro_batch)])
    batches = [collate(one) for one in rows]
    engine = make_engine(encoder, dtype=arguments.dtype, micro_batch=micro_batch)
    if where.type == "cuda":
        batches = [{name: column.pin_memory() for name, column in batch.items()} for batch in batches]
        torch.cuda.reset_peak_memory_stats()
    timed: dict[str, Any] = {"where": where, "steps": arguments.steps}
    fresh = measure(engine, batches, **timed)
    resident = measure(engine, [_on(batches[0], where)], **timed)
    peak, ceiling = peak_flops(where, dtype), matmul_ceiling(where, dtype)
    return {
        "model": arguments.model,
        "device": torch.cuda.get_device_name() if where.type == "cuda" else "cpu",
        "engine": "deepspeed" if not isinstance(engine, TorchEngine) else "torch",
        "trained_parameters": counts.trained,
        "frozen_parameters": counts.frozen,
        "micro_batch": micro_batch,
        "tokens_per_item": int(lengths[0]),
        "step_seconds": fresh,
        "items_per_second": micro_batch / fresh,
        "tokens_per_second": float(lengths.sum()) / fresh,
        "ceiling_items_per_second": micro_batch / resident,
        "share_of_ceiling": resident / fresh,
        "model_tflops_per_second": flops.model / fresh / 1e12,
        "peak_tflops": peak / 1e12,
        "matmul_tflops": ceiling / 1e12,
        "mfu": flops.model / fresh / peak,
        "hfu": flops.hardware / fresh / peak,
        "mfu_of_matmul": flops.model / fresh / ceiling,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if where.type == "cuda" else None,
        "planned_gib": planned,
    }


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="qwen2.5-vl-3b")
    parser.add_argument("--train", choices=sorted(TRAINED), default="all")
    parser.add_argument("--micro-batch", type=int, help="default: the largest that fits")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    print(json.dumps(run(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
