"""The MLLM that reads content."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from coldstart.config.section import Section, Share

CUE = "Describe this item in one word:"

Layers = Literal["all", "none"] | PositiveInt
"""All of a stack's layers, none, or its last n."""


class Lora(Section):
    """Low-rank adapters (peft) on the language layers, whose own weights then stay as they are."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0


class Trained(Section):
    """Parts of the MLLM that alignment trains; pooling and projection head always are."""

    vision: Layers | None = None
    """Layers of the vision tower. Left out: all, or none with `encoder.lora`."""
    connector: bool = True
    """What carries the tower's output into the language layers."""
    language: Layers = "all"
    """Language layers; `all` includes the token embeddings. With `encoder.lora`: those that get adapters."""


class Encoder(Section):
    """The MLLM that reads content, its prompt and what is taken from it."""

    mllm: str = "tiny"
    """`tiny` makes the offline MLLM for this dataset; otherwise a local checkpoint directory or a hub name."""
    picture_size: PositiveInt = 64
    """Pictures are fitted into a square of this many pixels per side."""
    dynamic_resolution: bool = False
    """Pictures keep their shape instead, with about picture_size x picture_size pixels at most; image tokens follow."""
    max_text_tokens: PositiveInt = 48
    cue: Annotated[str, Field(min_length=1, max_length=500)] = CUE
    """Stands between the item's words and `[EMB]`."""
    pooling: Literal["attention", "last", "mean"] = "attention"
    """Token states to one vector: `[EMB]` and what it attends to (IDProxy), `[EMB]` alone, or the mean of all."""
    layer_groups: PositiveInt = 3
    """Groups of layers that say much the same, each of which the adaptor is given one vector of."""
    group_reading: Literal["medoid", "mean"] = "medoid"
    """A group's vector: that of the layer nearest to its others, or the mean of all of its layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    train: Trained = Trained()
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    """Forgets activations inside each layer and computes them again: about a third slower, far less memory."""

    @model_validator(mode="after")
    def _adapters_have_layers(self) -> Self:
        if self.lora is not None and self.train.language == "none":
            raise ValueError(
                "encoder.lora puts adapters on language layers but encoder.train.language is none; "
                "set it to all or to a number of layers, or drop encoder.lora"
            )
        return self
