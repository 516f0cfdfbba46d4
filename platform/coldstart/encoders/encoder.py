"""The encoder: an MLLM, pooling and a projection head. Maps content to coarse proxies and layer states."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Lora, Modalities
from coldstart.data.content import Content
from coldstart.encoders.checkpoint import load_mllm, load_processor, mllm_on_meta
from coldstart.encoders.freezing import set_trainable
from coldstart.encoders.image_preprocessing import ImagePreprocessor
from coldstart.encoders.lora import merge_lora
from coldstart.encoders.pooling import POOLINGS, Projection
from coldstart.encoders.prompt import Prompt
from coldstart.encoders.varlen_attention import use_varlen_attention

Inputs = dict[str, Tensor]


class Encoder(nn.Module):
    """Maps content to coarse proxies `[B, d]` of unit norm and layer states `[B, G, D]`.

    Attributes:
        mllm: The MLLM, as `AutoModelForImageTextToText` loads it.
        pooling: Maps token states to one vector; shared by all layers.
        projection: Maps the pooled last layer to the ID space.
        prompt: Maps content to arrays; picklable, so that data workers can run it.
        layers: For each of the `G` groups, the indices of its hidden states (0 is the token embedding); fixed after
            training.
        width: d.
        hidden: D.
        lora: Settings of the low-rank adapters, or None.
    """

    def __init__(
        self,
        mllm: Any,
        prompt: Prompt,
        *,
        width: int,
        pooling: str = "attention",
        layers: Sequence[int | Sequence[int]] = (),
    ) -> None:
        """Adds a new pooling and projection head to an MLLM."""
        super().__init__()
        use_varlen_attention(mllm)
        self.mllm = mllm
        self.prompt = prompt
        # A group of one layer may be written as its bare index.
        self.layers = tuple((group,) if isinstance(group, int) else tuple(group) for group in layers)
        self.width = width
        self.hidden: int = mllm.config.get_text_config().hidden_size
        self.pooling_kind = pooling
        self.pooling = POOLINGS[pooling](self.hidden)
        self.projection = Projection(self.hidden, width)
        self.lora: Lora | None = None

    @classmethod
    def create(cls, mllm: str, settings: EncoderSettings, *, width: int, content: Modalities, seed: int) -> Self:
        """A new encoder, before alignment, from an MLLM checkpoint.

        Args:
            mllm: Local directory or hub name.
            settings: The recipe section `encoder`.
            width: d.
            content: Modalities that the encoder reads.
            seed: For the new weights.

        Raises:
            UserError: the checkpoint is missing or incomplete.
        """
        processor = load_processor(mllm)
        torch.manual_seed(seed)
        model = load_mllm(mllm, tokens=len(processor.tokenizer), dtype=settings.dtype)
        # Loading may draw random numbers, and different ones into ZeRO-3 partitions.
        torch.manual_seed(seed)
        return cls._from_model(model, processor, settings, width=width, content=content)

    @classmethod
    def on_meta(cls, mllm: str, settings: EncoderSettings, *, width: int, content: Modalities) -> Self:
        """The encoder that `create` builds, on the meta device, to count parameters without allocating them.

        Raises:
            UserError: the checkpoint has no processor, its family is not supported, or the settings do not fit it.
        """
        processor = load_processor(mllm)
        model = mllm_on_meta(mllm, tokens=len(processor.tokenizer))
        layers = model.config.get_text_config().num_hidden_layers
        if settings.layer_groups > layers:
            raise UserError(
                f"encoder.layer_groups {settings.layer_groups} exceeds the {layers} layers of {mllm}; lower it"
            )
        with torch.device("meta"):
            return cls._from_model(model, processor, settings, width=width, content=content)

    @classmethod
    def _from_model(
        cls, model: Any, processor: Any, settings: EncoderSettings, *, width: int, content: Modalities
    ) -> Self:
        prompt = make_prompt(processor, model.config, settings, content)
        encoder = cls(model, prompt, width=width, pooling=settings.pooling)
        encoder.to(model.dtype)
        encoder.set_trainable(settings)
        return encoder

    @classmethod
    def load(cls, path: Path, device: torch.device | str) -> Self:
        """Loads an encoder, in eval mode, from an artifact directory."""
        about = json.loads((path / "encoder.json").read_text())
        checkpoint = str(path / "checkpoint")
        processor = load_processor(checkpoint)
        model = load_mllm(checkpoint, tokens=len(processor.tokenizer), dtype=about["dtype"])
        settings = EncoderSettings.model_validate({name: about[name] for name in _RECORDED if name in about})
        prompt = make_prompt(processor, model.config, settings, Modalities(**about["content"]))
        encoder = cls(model, prompt, width=about["width"], pooling=settings.pooling, layers=about["layers"])
        head = load_file(path / "head.safetensors")
        unknown = encoder.load_state_dict(head, strict=False).unexpected_keys
        if unknown:
            raise UserError(
                f"{path}/head.safetensors holds the unknown tensor {unknown[0]}; run the align_coarse stage again"
            )
        return encoder.to(device=device, dtype=model.dtype).eval()

    def save(self, path: Path, *, state: dict[str, Tensor] | None = None) -> None:
        """Writes checkpoint/, head.safetensors and encoder.json into a directory.

        Args:
            path: The directory.
            state: The full state of this module, if its own parameters are partitioned over ranks.
        """
        full = state if state is not None else {name: value.detach() for name, value in self.state_dict().items()}
        full = {name: value.cpu().contiguous() for name, value in full.items()}
        mllm = {name.removeprefix("mllm."): value for name, value in full.items() if name.startswith("mllm.")}
        if self.lora is not None:
            mllm = merge_lora(mllm, self.lora)
        self.mllm.save_pretrained(path / "checkpoint", state_dict=mllm)
        self.prompt.processor.save_pretrained(path / "checkpoint")
        save_file(
            {name: value for name, value in full.items() if name.startswith(("pooling.", "projection."))},
            path / "head.safetensors",
        )
        about = {
            "width": self.width,
            "hidden": self.hidden,
            "layers": list(self.layers),
            "dtype": str(self.mllm.dtype).removeprefix("torch."),
            "pooling": self.pooling_kind,
            **self.prompt.settings(),
        }
        (path / "encoder.json").write_text(json.dumps(about, indent=2))

    def prepare(self, contents: Sequence[Content]) -> dict[str, np.ndarray]:
        """Arrays with one row per item, on the CPU; see `Prompt.prepare`."""
        return self.prompt.prepare(contents)

    def inputs(self, rows: dict[str, np.ndarray], device: torch.device | str) -> Inputs:
        """Tensors for `forward` from rows of `prepare`, padded to the longest row."""
        return {name: torch.tensor(column, device=device) for name, column in self.prompt.collate(rows).items()}

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Returns coarse proxies `[B, d]`, float32 of unit norm, and layer states `[B, G, D]`."""
        last, hidden = self._run(inputs)
        mask = inputs["attention_mask"]
        coarse = self.projection(self.pooling(last, mask))
        if not self.layers:
            return coarse, last.new_zeros(len(last), 0, self.hidden)
        groups = [[self.pooling(hidden[layer], mask) for layer in group] for group in self.layers]
        return coarse, torch.stack([torch.stack(group).mean(0) for group in groups], dim=1)

    def pooled(self, inputs: Inputs) -> Tensor:
        """Pooled states of the last layer, `[B, D]`: what the projection head reads."""
        out: Tensor = self.pooling(self._run(inputs)[0], inputs["attention_mask"])
        return out

    def layer_means(self, inputs: Inputs) -> Tensor:
        """Mean over tokens of every layer's states, `[B, layers, D]`, by which layers are grouped."""
        _, hidden = self._run(inputs, every_layer=True)
        mask = inputs["attention_mask"].unsqueeze(-1)
        return torch.stack([(states * mask).sum(1) / mask.sum(1) for states in hidden[1:]], dim=1).float()

    def _run(self, inputs: Inputs, *, every_layer: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        output = self.mllm.model(**inputs, output_hidden_states=every_layer or bool(self.layers), use_cache=False)
        return output.last_hidden_state, output.hidden_states or ()

    def set_trainable(self, settings: EncoderSettings) -> None:
        """Freezes parameters, adds adapters and turns on gradient checkpointing, as configured.

        Raises:
            UserError: a stack has fewer layers than the settings train.
        """
        set_trainable(self.mllm, settings.trainable, settings.lora)
        self.lora = settings.lora
        if settings.gradient_checkpointing:
            self.mllm.gradient_checkpointing_enable({"use_reentrant": False})
            # Transformers makes the inputs require gradients, which only reentrant checkpointing needs. A frozen tower
            # would be recomputed and back-propagated through for nothing.
            self.mllm.disable_input_require_grads()

    def trainable_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and parameters that alignment trains."""
        return ((name, weight) for name, weight in self.named_parameters() if weight.requires_grad)


_RECORDED = ("image_size", "dynamic_resolution", "max_text_tokens", "instruction", "pooling")


def make_prompt(processor: Any, config: Any, settings: EncoderSettings, content: Modalities) -> Prompt:
    """The prompt for an MLLM with this processor and configuration.

    Raises:
        UserError: its image processor does not support the settings.
    """
    images = ImagePreprocessor(processor.image_processor, size=settings.image_size, dynamic=settings.dynamic_resolution)
    return Prompt(
        processor,
        images,
        max_text_tokens=settings.max_text_tokens,
        content=content,
        image_marks=_image_marks(config, processor.tokenizer),
        instruction=settings.instruction,
    )


def _image_marks(config: Any, tokenizer: Any) -> tuple[str, str]:
    """Tokens around an image, for families whose processor does not add them."""
    ids = (getattr(config, "vision_start_token_id", None), getattr(config, "vision_end_token_id", None))
    if ids[0] is None or ids[1] is None:
        return "", ""
    start, end = tokenizer.convert_ids_to_tokens(list(ids))
    return start, end
