"""The MLLM that reads content, and its coarse alignment to ID rows."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from coldstart.config.section import Section, Share


class Lora(Section):
    """Low-rank adapters on the language layers (peft); the connector stays fully trained."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0


class Encoder(Section):
    """The MLLM that reads content, its prompt and what is taken from it."""

    mllm: str = "tiny"
    """`tiny` makes the offline MLLM for this dataset; otherwise a local checkpoint directory or a hub name."""
    picture_size: PositiveInt = 64
    """Pictures are fitted into a square of this many pixels per side."""
    max_text_tokens: PositiveInt = 48
    layer_groups: PositiveInt = 3
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: Lora | None = None


class Coarse(Section):
    """Coarse alignment: InfoNCE from content to the frozen ID rows of mature items (IDProxy, stage 1)."""

    min_events: PositiveInt = 20
    """Train events an item needs to be a target (tau_freq)."""
    temperature: PositiveFloat = 0.2
    epochs: PositiveInt = 9
    batch: PositiveInt = 64
    """Global batch in items: all ranks together, which is also the number of negatives plus one."""
    accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strong, for an MLLM that learns from scratch on thousands of items; a pre-trained one wants about 0.01."""
    warmup: Share = 0.1
    """Share of steps; a cosine follows."""
    clip: PositiveFloat = 1.0
    hidden_words: Share = 0.2
    """Share of an item's words that a step does not show; a few thousand items are learnt by heart otherwise."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    holdout: Share = 0.1
    """Seeded share of mature items kept out of the loss to measure retrieval of their own ID."""
    checkpoint_every: PositiveInt = 50
    """Steps between resumable checkpoints."""
