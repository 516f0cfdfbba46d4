"""Coarse alignment of content to ID rows."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section, Share


class Negatives(Section):
    """ID rows that an item is told from at a step, beside those of the batch. They cost no reading of content."""

    beside: NonNegativeInt | Literal["all"] = 0
    """How many rows of the items in training are drawn; `all` takes every one of them (an exact softmax)."""
    popularity: Annotated[float, Field(ge=0, le=1)] = 0
    """Draws are proportional to train events to this power; 0 draws all alike."""
    log_q: bool = False
    """Takes the logarithm of how often an item is expected at a step off its score, so that popular draws cost
    popular items nothing."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.popularity and self.beside in (0, "all"):
            raise ValueError(
                f"popularity {self.popularity:g} has no effect with beside {self.beside}: nothing is drawn; set beside "
                "to a number of rows"
            )
        if self.log_q and not self.popularity:
            raise ValueError(
                "log_q has no effect with popularity 0: every item is expected equally often; set popularity above 0 "
                "or log_q: false"
            )
        return self


class Offload(Section):
    """Where ZeRO keeps what the GPUs have no room for; slower, but a larger model fits."""

    optimizer: Literal["none", "cpu", "nvme"] = "none"
    """AdamW's states and its step. `cpu` from zero_stage 1 on, `nvme` with 3."""
    parameters: Literal["none", "cpu", "nvme"] = "none"
    """Shards of the weights; zero_stage 3 only."""
    nvme_path: Path | None = None
    """Directory on a local NVMe disk of every machine."""

    @model_validator(mode="after")
    def _disk_is_named(self) -> Self:
        if "nvme" in (self.optimizer, self.parameters) and self.nvme_path is None:
            raise ValueError("nvme needs nvme_path: a directory on a local NVMe disk of every machine")
        return self


class Coarse(Section):
    """Coarse alignment: InfoNCE from content to the frozen ID rows of mature items (IDProxy, stage 1)."""

    min_events: PositiveInt = 20
    """Train events an item needs to be a target (tau_freq)."""
    temperature: PositiveFloat = 0.2
    learn_temperature: bool = False
    """Whether it is trained along, from `temperature`, within 0.01 and 1."""
    epochs: PositiveInt = 9
    batch: PositiveInt = 64
    """Global batch in items: all ranks together, which is also the number of negatives plus one."""
    micro_batch: PositiveInt | None = None
    """Items that a rank reads at a time, as many as its memory holds; None reads its share of the batch at once. The
    gradient is that of the whole batch in any case."""
    negatives: Negatives = Negatives()
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strong, for an MLLM that learns from scratch on thousands of items; a pre-trained one wants about 0.01."""
    warmup: Share = 0.1
    """Share of steps; a cosine follows."""
    clip: PositiveFloat = 1.0
    hidden_words: Share = 0.2
    """Share of an item's words that a step does not show; a few thousand items are learnt by heart otherwise."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    offload: Offload = Offload()
    holdout: Share = 0.1
    """Seeded share of mature items, 1,024 at most, kept out of the loss to measure retrieval of their own ID."""
    checkpoint_every: PositiveInt = 50
    """Steps between resumable checkpoints."""
    checkpoint_async: bool = True
    """Whether they are written while the steps go on. Needs room for a rank's state in the host's memory once more."""

    def micro(self, ranks: int) -> int:
        """Items that each of so many ranks reads at a time."""
        return self.micro_batch or self.batch // ranks

    @model_validator(mode="after")
    def _shards_can_be_offloaded(self) -> Self:
        needed = max({"none": 0, "cpu": 1, "nvme": 3}[self.offload.optimizer], 3 * (self.offload.parameters != "none"))
        if self.zero_stage < needed:
            raise ValueError(
                f"coarse.offload (optimizer {self.offload.optimizer}, parameters {self.offload.parameters}) needs "
                f"coarse.zero_stage {needed} but it is {self.zero_stage}; raise it or drop coarse.offload"
            )
        return self
