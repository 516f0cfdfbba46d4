"""Recommends a ZeRO stage and a micro-batch for coarse alignment, and measures its speed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.training.memory_estimate import MemoryEstimate

USABLE = 0.9
"""Share of a rank's memory that a plan may use; the rest is for fragmentation, programs and the driver."""
WARM_UP, TIMED = 1, 3
"""Steps of the probe."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory of a rank with one ZeRO stage, in bytes.

    Attributes:
        stage: ZeRO 0 to 3.
        states: Weights, gradients and optimizer states.
        micro_batch: Largest number of items that fits and divides a rank's share of a step; 0 if not even one fits.
        activations: Activations of a micro-batch.
        exchange: Communication buffers during the backward pass.
        update: Buffers of the optimizer step.
        total: Peak of a step.
    """

    stage: int
    states: int
    micro_batch: int
    activations: int
    exchange: int
    update: int
    total: int


def candidate_plans(estimate: MemoryEstimate, *, ranks: int, share: int, memory: int) -> list[Plan]:
    """A plan for every possible stage, with the largest micro-batch that fits.

    Args:
        estimate: Memory estimate of the encoder.
        ranks: Number of ranks.
        share: Items of a step on each rank.
        memory: Memory of a rank in bytes.
    """
    sizes = [items for items in range(share, 0, -1) if share % items == 0]
    plans = []
    for stage in estimate.stages:
        fitting = (items for items in sizes if estimate.total(stage, ranks, items) <= USABLE * memory)
        micro = next(fitting, 0)
        items = max(micro, 1)
        plans.append(
            Plan(
                stage=stage,
                states=estimate.states(stage, ranks),
                micro_batch=micro,
                activations=estimate.activations(items),
                exchange=estimate.exchange(stage, ranks),
                update=estimate.update(stage, ranks),
                total=estimate.total(stage, ranks, items),
            )
        )
    return plans


def best_plan(plans: Sequence[Plan]) -> Plan | None:
    """The plan with the largest micro-batch and, of those, the least communication; None if none fits."""
    fitting = [plan for plan in plans if plan.micro_batch]
    return max(fitting, key=lambda plan: (plan.micro_batch, -plan.stage), default=None)


def probe_items_per_second(
    mllm: str,
    settings: EncoderSettings,
    *,
    width: int,
    content: Modalities,
    sample: Sequence[Content],
    device: torch.device,
) -> float:
    """Measures how many items per second one rank of this machine trains, forward and backward, without optimizer.

    Args:
        mllm: Checkpoint directory or hub name.
        settings: The recipe section `encoder`.
        width: `d`.
        content: Modalities that the encoder reads.
        sample: Items of a micro-batch.
        device: Device to train on.
    """
    encoder = Encoder.create(mllm, settings, width=width, content=content, seed=0).to(device).train()
    inputs = encoder.inputs(encoder.prepare(list(sample)), device)
    start = 0.0
    for step in range(WARM_UP + TIMED):
        if step == WARM_UP:
            _wait(device)
            start = time.perf_counter()
        coarse, _ = encoder(inputs)
        coarse.sum().backward()
    _wait(device)
    return TIMED * len(sample) / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
