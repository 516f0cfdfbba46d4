"""Which ZeRO stage and micro-batch a coarse stage should run with, and how long it would take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coldstart.config.recipe import ContentSwitch
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.training.footprint import Footprint

USABLE = 0.9
"""Share of a rank's memory that is planned with; the rest is for fragments, programs and the driver."""
WARM_UP, TIMED = 1, 3
"""Passes of the probe."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A ZeRO stage on given ranks.

    Attributes:
        stage: 0 to 3.
        states: Bytes of weights, gradients and optimizer states on each rank.
        micro_batch: The most items of a pass that fit and divide a rank's share of a step; 0 if not even one fits.
        activations: Bytes of such a pass.
        exchange: Bytes that are held beside them.
        update: Bytes that are held on top of the states once they are gone.
        total: Bytes on each rank at the peak of a step.
    """

    stage: int
    states: int
    micro_batch: int
    activations: int
    exchange: int
    update: int
    total: int


def rows(footprint: Footprint, *, ranks: int, share: int, memory: int) -> list[Row]:
    """Every stage it can have, with the largest micro-batch that fits.

    Args:
        footprint: Of the encoder.
        ranks: That share the states.
        share: Items of a step on each rank.
        memory: Bytes of a rank.
    """
    sizes = [items for items in range(share, 0, -1) if share % items == 0]
    found = []
    for stage in footprint.stages:
        fits = (items for items in sizes if footprint.total(stage, ranks, items) <= USABLE * memory)
        micro = next(fits, 0)
        items = max(micro, 1)
        found.append(
            Row(
                stage=stage,
                states=footprint.states(stage, ranks),
                micro_batch=micro,
                activations=footprint.activations(items),
                exchange=footprint.exchange(stage, ranks),
                update=footprint.update(stage, ranks),
                total=footprint.total(stage, ranks, items),
            )
        )
    return found


def best(found: Sequence[Row]) -> Row | None:
    """The stage with the largest passes and, among those, the least that travels between ranks; None if none fits."""
    fitting = [row for row in found if row.micro_batch]
    return max(fitting, key=lambda row: (row.micro_batch, -row.stage), default=None)


def items_per_second(
    mllm: str,
    settings: EncoderSettings,
    *,
    width: int,
    content: ContentSwitch,
    sample: Sequence[Content],
    device: torch.device,
) -> float:
    """Probes a machine: items that one rank of it trains on per second, forward and backward, without the optimizer.

    Args:
        mllm: Checkpoint directory or hub name.
        settings: Section of the recipe.
        width: `d`.
        content: Modalities that are read.
        sample: The items of a pass.
        device: Where to.
    """
    encoder = Encoder.create(mllm, settings, width=width, content=content, seed=0).to(device).train()
    inputs = encoder.inputs(encoder.prepare(list(sample)), device)
    began = 0.0
    for turn in range(WARM_UP + TIMED):
        if turn == WARM_UP:
            _wait(device)
            began = time.perf_counter()
        coarse, _ = encoder(inputs)
        coarse.sum().backward()
    _wait(device)
    return TIMED * len(sample) / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
