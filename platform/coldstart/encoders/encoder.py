"""The encoder: an MLLM, pooling and a projection head. Reads content, writes coarse proxies and layer states."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.config.recipe import ContentSwitch, Lora
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.encoders.checkpoint import load_mllm, load_processor, outline_mllm
from coldstart.encoders.freezing import choose_trained
from coldstart.encoders.lora import merge_lora
from coldstart.encoders.pictures import Pictures
from coldstart.encoders.pooling import POOLINGS, Projection
from coldstart.encoders.prompt import Prompt
from coldstart.encoders.segments import attend_in_segments

Inputs = dict[str, Tensor]


class Encoder(nn.Module):
    """Content -> coarse proxy `[B, d]` of unit norm and layer states `[B, G, D]`.

    Attributes:
        mllm: The MLLM, as `AutoModelForImageTextToText` loads it.
        pooling: Token states -> one vector, shared by all layers.
        projection: Last layer's vector -> ID space.
        prompt: Content -> arrays; picklable on its own for data workers.
        layers: Indices of the hidden states that are read out (0 is the token embedding), of one layer or several for
            each of the `G` groups; pinned after training.
        width: d.
        hidden: D.
        lora: Settings of the low-rank adapters, if there are any.
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
        """Puts a new pooling and head on an MLLM."""
        super().__init__()
        attend_in_segments(mllm)
        self.mllm = mllm
        self.prompt = prompt
        # Encoders of earlier releases read one layer of each group and name it bare.
        self.layers = tuple((one,) if isinstance(one, int) else tuple(one) for one in layers)
        self.width = width
        self.hidden: int = mllm.config.get_text_config().hidden_size
        self.pooling_kind = pooling
        self.pooling = POOLINGS[pooling](self.hidden)
        self.projection = Projection(self.hidden, width)
        self.lora: Lora | None = None

    @classmethod
    def create(cls, mllm: str, settings: EncoderSettings, *, width: int, content: ContentSwitch, seed: int) -> Self:
        """An encoder that is not aligned yet, from an MLLM checkpoint.

        Args:
            mllm: Local directory or hub name.
            settings: What is read and trained.
            width: d.
            content: Modalities that it may read, now and later.
            seed: Of the new weights.

        Raises:
            UserError: the checkpoint is not there or not complete.
        """
        processor = load_processor(mllm)
        torch.manual_seed(seed)
        model = load_mllm(mllm, tokens=len(processor.tokenizer), dtype=settings.dtype)
        # Loading may draw numbers, and not the same ones into shards.
        torch.manual_seed(seed)
        return cls._on(model, processor, settings, width=width, content=content)

    @classmethod
    def outline(cls, mllm: str, settings: EncoderSettings, *, width: int, content: ContentSwitch) -> Self:
        """The encoder that `create` makes, without weights: what it would train, before a machine has to hold it.

        Raises:
            UserError: the checkpoint has no processor, is of a family that cannot be read, or cannot do what the
                settings say.
        """
        processor = load_processor(mllm)
        model = outline_mllm(mllm, tokens=len(processor.tokenizer))
        layers = model.config.get_text_config().num_hidden_layers
        if settings.layer_groups > layers:
            raise UserError(
                f"encoder.layer_groups {settings.layer_groups} exceeds the {layers} layers of {mllm}; lower it"
            )
        with torch.device("meta"):
            return cls._on(model, processor, settings, width=width, content=content)

    @classmethod
    def _on(cls, model: Any, processor: Any, settings: EncoderSettings, *, width: int, content: ContentSwitch) -> Self:
        prompt = make_prompt(processor, model.config, settings, content)
        encoder = cls(model, prompt, width=width, pooling=settings.pooling)
        encoder.to(model.dtype)
        encoder.choose_trained(settings)
        return encoder

    @classmethod
    def load(cls, path: Path, device: torch.device | str) -> Self:
        """The encoder in an artifact directory, in eval mode."""
        about = json.loads((path / "encoder.json").read_text())
        checkpoint = str(path / "checkpoint")
        processor = load_processor(checkpoint)
        model = load_mllm(checkpoint, tokens=len(processor.tokenizer), dtype=about["dtype"])
        settings = EncoderSettings.model_validate({name: about[name] for name in _RECORDED if name in about})
        prompt = make_prompt(processor, model.config, settings, ContentSwitch(**about["content"]))
        encoder = cls(model, prompt, width=about["width"], pooling=settings.pooling, layers=about["layers"])
        head = load_file(path / "head.safetensors")
        missing = encoder.load_state_dict(head, strict=False)
        if missing.unexpected_keys:
            raise UserError(
                f"{path}/head.safetensors holds {missing.unexpected_keys[0]}, which this release does not know"
            )
        return encoder.to(device=device, dtype=model.dtype).eval()

    def save(self, path: Path, *, state: dict[str, Tensor] | None = None) -> None:
        """Writes checkpoint/, head.safetensors and encoder.json into a directory.

        Args:
            path: Where to.
            state: The full state of this module where its own parameters are partitioned over ranks.
        """
        whole = state if state is not None else {name: value.detach() for name, value in self.state_dict().items()}
        whole = {name: value.cpu().contiguous() for name, value in whole.items()}
        mllm = {name.removeprefix("mllm."): value for name, value in whole.items() if name.startswith("mllm.")}
        if self.lora is not None:
            mllm = merge_lora(mllm, self.lora)
        self.mllm.save_pretrained(path / "checkpoint", state_dict=mllm)
        self.prompt.processor.save_pretrained(path / "checkpoint")
        save_file(
            {name: value for name, value in whole.items() if name.startswith(("pooling.", "projection."))},
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
        """Arrays with one row per item, on the CPU: see `Prompt.prepare`."""
        return self.prompt.prepare(contents)

    def inputs(self, rows: dict[str, np.ndarray], device: torch.device | str) -> Inputs:
        """Tensors for `forward` from any rows that `prepare` made, padded to the longest of them."""
        return {name: torch.tensor(column, device=device) for name, column in self.prompt.collate(rows).items()}

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Inputs of `B` items -> coarse proxies `[B, d]` float32 of unit norm, layer states `[B, G, D]`."""
        last, hidden = self._run(inputs)
        mask = inputs["attention_mask"]
        coarse = self.projection(self.pooling(last, mask))
        if not self.layers:
            return coarse, last.new_zeros(len(last), 0, self.hidden)
        groups = [[self.pooling(hidden[layer], mask) for layer in group] for group in self.layers]
        return coarse, torch.stack([torch.stack(group).mean(0) for group in groups], dim=1)

    def layer_means(self, inputs: Inputs) -> Tensor:
        """Mean over tokens of every layer's states, `[B, layers, D]`; what layers are grouped by."""
        _, hidden = self._run(inputs, every_layer=True)
        mask = inputs["attention_mask"].unsqueeze(-1)
        return torch.stack([(states * mask).sum(1) / mask.sum(1) for states in hidden[1:]], dim=1).float()

    def _run(self, inputs: Inputs, *, every_layer: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        seen = self.mllm.model(**inputs, output_hidden_states=every_layer or bool(self.layers), use_cache=False)
        return seen.last_hidden_state, seen.hidden_states or ()

    def choose_trained(self, settings: EncoderSettings) -> None:
        """Freezes what the settings do not train, adds adapters, and saves memory in the way they say.

        Raises:
            UserError: a part has fewer layers than are asked for.
        """
        choose_trained(self.mllm, settings.train, settings.lora)
        self.lora = settings.lora
        if settings.gradient_checkpointing:
            self.mllm.gradient_checkpointing_enable({"use_reentrant": False})
            # Transformers lets gradients run to the inputs, which only reentrant checkpointing needs: a frozen tower
            # would be computed again and gone back through for nothing.
            self.mllm.disable_input_require_grads()

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Named parameters that alignment trains."""
        return ((name, weight) for name, weight in self.named_parameters() if weight.requires_grad)


_RECORDED = ("picture_size", "dynamic_resolution", "max_text_tokens", "cue", "pooling")


def make_prompt(processor: Any, config: Any, settings: EncoderSettings, content: ContentSwitch) -> Prompt:
    """The prompt for an MLLM with this processor and configuration.

    Raises:
        UserError: its image processor cannot do what the settings say.
    """
    pictures = Pictures(processor.image_processor, size=settings.picture_size, dynamic=settings.dynamic_resolution)
    return Prompt(
        processor,
        pictures,
        max_text_tokens=settings.max_text_tokens,
        content=content,
        image_marks=_image_marks(config, processor.tokenizer),
        cue=settings.cue,
    )


def _image_marks(config: Any, tokenizer: Any) -> tuple[str, str]:
    """Tokens around an image, in the families whose processor leaves them to the prompt."""
    ids = (getattr(config, "vision_start_token_id", None), getattr(config, "vision_end_token_id", None))
    if ids[0] is None or ids[1] is None:
        return "", ""
    start, end = tokenizer.convert_ids_to_tokens(list(ids))
    return start, end
