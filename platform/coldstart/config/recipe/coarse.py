"""Coarse alignment of content to ID rows."""

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import LocalPath, Section, Share

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe


class Negatives(Section):
    """Negative ID rows besides those of the batch. They do not need encoding."""

    num_sampled: NonNegativeInt | Literal["all"] = 0
    """Number of sampled ID rows of training items; `all` uses every training item (exact softmax)."""
    popularity: Annotated[float, Field(ge=0, le=1)] = 0
    """Sampling probabilities are proportional to train events to this power; 0 samples uniformly."""
    log_q: bool = False
    """Subtracts the log of the expected count per step from a score (logQ correction), so that popularity sampling
    does not penalize popular items."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.popularity and self.num_sampled in (0, "all"):
            raise ValueError(
                f"popularity {self.popularity:g} has no effect with num_sampled {self.num_sampled}: nothing is sampled;"
                " set num_sampled to a number of rows"
            )
        if self.log_q and not self.popularity:
            raise ValueError(
                "log_q has no effect with popularity 0: sampling is uniform; set popularity above 0 or log_q: false"
            )
        return self


class Offload(Section):
    """Where ZeRO keeps state that does not fit into GPU memory; slower, but allows larger models."""

    optimizer: Literal["none", "cpu", "nvme"] = "none"
    """AdamW's state and step. `cpu` needs zero_stage 1 or more, `nvme` needs 3."""
    parameters: Literal["none", "cpu", "nvme"] = "none"
    """Partitions of the weights; needs zero_stage 3."""
    nvme_path: LocalPath | None = None
    """Directory on a local NVMe disk of every machine."""

    @model_validator(mode="after")
    def _disk_is_named(self) -> Self:
        if "nvme" in (self.optimizer, self.parameters) and self.nvme_path is None:
            raise ValueError("nvme needs nvme_path; set it to a directory on a local NVMe disk of every machine")
        return self


class Coarse(Section):
    """Coarse alignment: InfoNCE from content to the frozen ID rows of mature items (IDProxy, stage 1)."""

    temperature: PositiveFloat = 0.2
    learn_temperature: bool = False
    """Whether the temperature is trained, starting from `temperature`, within 0.01 and 1."""
    epochs: PositiveInt = 9
    batch: PositiveInt = 64
    """Global batch in items, over all ranks; also the number of in-batch negatives plus one."""
    micro_batch: PositiveInt | None = None
    """Items that a rank encodes at a time; None encodes its share of the batch at once. The gradient is always that of
    the whole batch."""
    negatives: Negatives = Negatives()
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strong, for an MLLM trained from scratch on thousands of items; use about 0.01 for a pre-trained one."""
    warmup_ratio: Share = 0.1
    """Share of steps with linear warm-up; cosine decay follows."""
    max_grad_norm: PositiveFloat = 1.0
    token_dropout: Share = 0.2
    """Share of an item's text tokens that are masked in a step; otherwise a few thousand items are memorized."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    offload: Offload = Offload()
    holdout_fraction: Share = 0.1
    """Seeded share of mature items, at most 1,024, excluded from the loss to measure retrieval of their ID row."""
    checkpoint_every: PositiveInt = 50
    """Steps between resumable checkpoints."""
    checkpoint_async: bool = True
    """Writes checkpoints while training continues; needs host memory for another copy of a rank's state."""

    def micro(self, ranks: int) -> int:
        """Micro-batch of each of `ranks` ranks, in items."""
        return self.micro_batch or self.batch // ranks

    @model_validator(mode="after")
    def _shards_can_be_offloaded(self) -> Self:
        needed = max({"none": 0, "cpu": 1, "nvme": 3}[self.offload.optimizer], 3 * (self.offload.parameters != "none"))
        if self.zero_stage < needed:
            raise ValueError(
                f"method.coarse.offload (optimizer {self.offload.optimizer}, parameters {self.offload.parameters}) "
                f"needs method.coarse.zero_stage {needed} but it is {self.zero_stage}; raise it or remove "
                "method.coarse.offload"
            )
        return self

    def check(self, recipe: "Recipe") -> None:
        """Compares the batch with the number of ranks, and the precision with the optimizer.

        Args:
            recipe: Whose method has these settings as `method.coarse`.

        Raises:
            ValueError: they do not fit together.
        """
        ranks, sizes = recipe.cluster.workers, recipe.cluster.sizes
        divisor = math.lcm(*sizes) * (self.micro_batch or 1)
        if self.batch % divisor:
            times = f" x method.coarse.micro_batch {self.micro_batch}" if self.micro_batch else ""
            elastic = f"every number from cluster.min_workers {sizes[0]} to " if len(sizes) > 1 else ""
            raise ValueError(
                f"method.coarse.batch {self.batch} is not divisible by {elastic}cluster.workers {ranks}{times}; "
                f"choose a multiple of {divisor}"
            )
        if recipe.encoder.dtype == "bfloat16" and self.zero_stage == 0:
            raise ValueError(
                "method.coarse.zero_stage 0 keeps no float32 copy of bfloat16 weights (encoder.dtype), so small "
                "updates are lost; set method.coarse.zero_stage: 1 (with one rank it needs nothing more)"
            )
