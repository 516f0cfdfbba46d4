"""The recipe section of the encoder, an MLLM."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from coldstart.config.section import Section, Share

INSTRUCTION = "Describe this item in one word:"

Layers = Literal["all", "none"] | PositiveInt
"""All layers of a stack, none, or its last n."""


class Lora(Section):
    """Low-rank adapters (peft) on the language layers, whose own weights are then frozen."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0


def split_revision(mllm: str) -> tuple[str, str]:
    """Name and revision of an `encoder.mllm` on the hub; the revision is `main` if none is given."""
    name, _, revision = mllm.partition("@")
    return name, revision or "main"


class TrainableLayers(Section):
    """Parts of the MLLM that alignment trains; pooling and projection head are always trained."""

    vision: Layers | None = None
    """Layers of the vision tower. None means all, or none with `encoder.lora`."""
    connector: bool = True
    """The projector from the vision tower to the language layers."""
    language: Layers = "all"
    """Language layers; `all` includes the token embeddings. With `encoder.lora`: the layers with adapters."""


class Encoder(Section):
    """The MLLM that encodes content, its prompt and its outputs."""

    mllm: str = "tiny"
    """`tiny` creates the offline MLLM for this dataset; otherwise a local checkpoint directory or a hub name. One
    revision of it is `owner/name@revision`; without one, its newest commit is taken, recorded and printed."""
    image_size: PositiveInt = 64
    """Images are scaled into a square of this many pixels per side."""
    dynamic_resolution: bool = False
    """Images keep their shape, with at most about image_size x image_size pixels; the number of image tokens varies."""
    max_text_tokens: PositiveInt = 48
    instruction: Annotated[str, Field(min_length=1, max_length=500)] = INSTRUCTION
    """Text between the item's text and `[EMB]`."""
    pooling: Literal["attention", "last", "mean"] = "attention"
    """Pooling of token states: `[EMB]` plus attention from it (IDProxy), `[EMB]` alone, or the mean of all tokens."""
    layer_groups: PositiveInt = 3
    """Groups of similar layers; the adaptor gets one vector of each group."""
    group_reduction: Literal["medoid", "mean"] = "medoid"
    """A group's vector: that of its medoid layer, or the mean over its layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    trainable: TrainableLayers = TrainableLayers()
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    """Recomputes activations inside each layer: about a third slower, far less memory."""

    @model_validator(mode="after")
    def _adapters_have_layers(self) -> Self:
        if self.lora is not None and self.trainable.language == "none":
            raise ValueError(
                "encoder.lora puts adapters on language layers but encoder.trainable.language is none; "
                "set it to all or to a number of layers, or remove encoder.lora"
            )
        return self
