"""A step of coarse alignment on one bare machine: no Ray, no data, no hub; a model of real size with random weights.

    pip install torch transformers pydantic pyarrow pillow  # peft for --train adapters; deepspeed if you like
    PYTHONPATH=platform:. python -m workloads.benchmarks.coarse_gpu --model qwen2.5-vl-3b --train all --checkpointing

The micro-batch is the largest that `coldstart plan` finds to fit this machine, unless `--micro-batch` says one.
Prints one JSON line: items and tokens per second with a new batch from host memory at every step and, as the ceiling,
with one batch that stays on the device; MFU and HFU as the journal has them, against the data sheet's peak, and what
large matrix products reach here beside it; peak memory, measured and planned.
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

from coldstart.alignment.contrastive import Targets, info_nce
from coldstart.config.recipe import Coarse
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import count_parameters
from coldstart.training.flops import FlopCounter
from coldstart.training.plan import best, rows
from coldstart.training.throughput import matmul_ceiling, peak_flops, wait
from workloads.benchmarks.coarse.bare import SHAPES, TRAINED, Inputs, collate, footprint, make_encoder, make_rows

MOST_ITEMS = 256
"""Of a micro-batch: more make no GPU busier."""
WARM_UP = 2
STAGE = 2
"""Of ZeRO; on one rank it shards nothing, but it holds least."""


class Bare:
    """AdamW on float32 copies of the weights, for machines without DeepSpeed.

    Attributes:
        module: What is trained.
    """

    def __init__(self, module: Encoder) -> None:
        """Copies the weights that are trained."""
        self.module = module
        self._weights = [weight for _, weight in module.trainable()]
        self._masters = [weight.detach().float().clone() for weight in self._weights]
        self._optimizer = torch.optim.AdamW(self._masters, lr=1e-5, fused=self._weights[0].is_cuda)

    def __call__(self, inputs: Inputs) -> Any:
        """Runs the module."""
        return self.module(inputs)

    def backward(self, loss: Tensor) -> None:
        """Adds gradients."""
        loss.backward()

    def step(self) -> None:
        """Clips, updates, and forgets the gradients."""
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for master, weight in zip(self._masters, self._weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)


def make_engine(encoder: Encoder, *, dtype: str, micro_batch: int) -> Any:
    """The engine that the coarse stage trains with where DeepSpeed is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        return Bare(encoder)
    from coldstart.training.deepspeed_engine import deepspeed_config, start_engine

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)
    settings = Coarse(batch=micro_batch, zero_stage=STAGE, learning_rate=1e-5)
    return start_engine(encoder, settings, deepspeed_config(settings, dtype=dtype), total_steps=10_000)


def measure(engine: Any, batches: list[Inputs], *, where: torch.device, steps: int) -> float:
    """Seconds of a step: forward, InfoNCE, backward, clipping, AdamW. Batches are moved where they are not there."""
    items = len(batches[0]["input_ids"])
    draw = torch.Generator().manual_seed(0)
    ids = F.normalize(torch.randn(items, engine.module.width, generator=draw), dim=1).to(where)
    targets = Targets(ids, torch.arange(items, device=where), None)
    temperature = torch.tensor(0.07, device=where)
    began = 0.0
    for step in range(-WARM_UP, steps):
        if step == 0:
            wait(where)
            began = time.perf_counter()
        coarse, _ = engine(_on(batches[step % len(batches)], where))
        engine.backward(info_nce(coarse, targets, targets, temperature=temperature).mean())
        engine.step()
    wait(where)
    return (time.perf_counter() - began) / steps


def _on(batch: Inputs, where: torch.device) -> Inputs:
    return {name: column.to(where, non_blocking=True) for name, column in batch.items()}


def plan(arguments: argparse.Namespace, where: torch.device, item: dict[str, int]) -> tuple[int, float]:
    """Items of a pass, and GiB that a step with them should take."""
    kinds = {"train": arguments.train, "dtype": getattr(torch, arguments.dtype)}
    size = footprint(arguments.model, checkpointing=arguments.checkpointing, **kinds, **item)
    if arguments.micro_batch:
        return arguments.micro_batch, size.total(STAGE, 1, arguments.micro_batch) / 2**30
    memory = torch.cuda.mem_get_info()[0] if where.type == "cuda" else _free_memory()
    choice = best([row for row in rows(size, ranks=1, share=MOST_ITEMS, memory=memory) if row.stage == STAGE])
    if choice is None:
        raise SystemExit(f"not one item fits {memory / 2**30:.1f} GiB: add --checkpointing, or --train adapters")
    return choice.micro_batch, choice.total / 2**30


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures both ways and puts the figures together."""
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, arguments.dtype)
    item = {"picture_size": arguments.picture_size, "text_tokens": arguments.text_tokens}
    micro_batch, planned = plan(arguments, where, item)
    torch.manual_seed(0)
    encoder = make_encoder(
        arguments.model, train=arguments.train, dtype=dtype, device=where.type, checkpointing=arguments.checkpointing
    )
    counter, counts = FlopCounter(encoder), count_parameters(encoder)
    made = [make_rows(encoder, micro_batch, seed=seed, **item) for seed in range(2)]
    lengths = np.full(micro_batch, made[0]["input_ids"].shape[1])
    flops = counter.count(made[0], lengths, [np.arange(micro_batch)])
    batches = [collate(one) for one in made]
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
        "engine": "deepspeed" if not isinstance(engine, Bare) else "torch",
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


def main(given: list[str] | None = None) -> None:
    """Runs as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="qwen2.5-vl-3b")
    parser.add_argument("--train", choices=sorted(TRAINED), default="all")
    parser.add_argument("--micro-batch", type=int, help="default: the largest that fits")
    parser.add_argument("--picture-size", type=int, default=448)
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    print(json.dumps(run(parser.parse_args(given))))


if __name__ == "__main__":
    main()
