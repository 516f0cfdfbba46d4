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
from coldstart.encoders.checkpoint import load_mllm, load_processor
from coldstart.encoders.lora import add_lora, merge_lora
from coldstart.encoders.pooling import AttentionPooling, Projection
from coldstart.encoders.prompt import Prompt

Inputs = dict[str, Tensor]


class Encoder(nn.Module):
    """Content -> coarse proxy `[B, d]` of unit norm and layer states `[B, G, D]`.

    Attributes:
        mllm: The MLLM, as `AutoModelForImageTextToText` loads it.
        pooling: Token states -> one vector, shared by all layers.
        projection: Last layer's vector -> ID space.
        prompt: Content -> arrays; picklable on its own for data workers.
        layers: Indices of the `G` hidden states that are read out (0 is the token embedding); pinned after training.
        width: d.
        hidden: D.
        lora: Settings of the low-rank adapters, if only those are trained.
    """

    def __init__(self, mllm: Any, prompt: Prompt, *, width: int, layers: Sequence[int] = ()) -> None:
        """Puts a new pooling and head on an MLLM."""
        super().__init__()
        self.mllm = mllm
        self.prompt = prompt
        self.layers = tuple(layers)
        self.width = width
        self.hidden: int = mllm.config.get_text_config().hidden_size
        self.pooling = AttentionPooling(self.hidden)
        self.projection = Projection(self.hidden, width)
        self.lora: Lora | None = None
        head = mllm.get_output_embeddings()
        if head is not None and head.weight is not mllm.get_input_embeddings().weight:
            head.requires_grad_(False)  # No loss reaches the language head.

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
        prompt = Prompt(
            processor,
            picture_size=settings.picture_size,
            max_text_tokens=settings.max_text_tokens,
            content=content,
            image_marks=_image_marks(model.config, processor.tokenizer),
        )
        encoder = cls(model, prompt, width=width)
        encoder.to(model.dtype)
        if settings.lora is not None:
            add_lora(model, settings.lora)
            encoder.lora = settings.lora
        return encoder

    @classmethod
    def load(cls, path: Path, device: torch.device | str) -> Self:
        """The encoder in an artifact directory, in eval mode."""
        about = json.loads((path / "encoder.json").read_text())
        checkpoint = str(path / "checkpoint")
        processor = load_processor(checkpoint)
        model = load_mllm(checkpoint, tokens=len(processor.tokenizer), dtype=about["dtype"])
        prompt = Prompt(
            processor,
            picture_size=about["picture_size"],
            max_text_tokens=about["max_text_tokens"],
            content=ContentSwitch(**about["content"]),
            image_marks=_image_marks(model.config, processor.tokenizer),
            cue=about["cue"],
        )
        encoder = cls(model, prompt, width=about["width"], layers=about["layers"])
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
            **self.prompt.settings(),
        }
        (path / "encoder.json").write_text(json.dumps(about, indent=2))

    def prepare(self, contents: Sequence[Content]) -> dict[str, np.ndarray]:
        """Arrays with one row per item, on the CPU: see `Prompt.prepare`."""
        return self.prompt.prepare(contents)

    def inputs(self, arrays: dict[str, np.ndarray], device: torch.device | str) -> Inputs:
        """Tensors for `forward` from what `prepare` made: columns that no row attends to are cut off."""
        tensors = {name: torch.tensor(rows, device=device) for name, rows in arrays.items()}
        longest = int(np.flatnonzero(arrays["attention_mask"].any(axis=0))[-1]) + 1
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in tensors:
                tensors[name] = tensors[name][:, :longest]
        for name in self.prompt.folded & tensors.keys():
            tensors[name] = tensors[name].flatten(0, 1)
        return tensors

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Inputs of `B` items -> coarse proxies `[B, d]` float32 of unit norm, layer states `[B, G, D]`."""
        last, hidden = self._run(inputs)
        mask = inputs["attention_mask"]
        coarse = self.projection(self.pooling(last, mask))
        if not self.layers:
            return coarse, last.new_zeros(len(last), 0, self.hidden)
        return coarse, torch.stack([self.pooling(hidden[layer], mask) for layer in self.layers], dim=1)

    def layer_means(self, inputs: Inputs) -> Tensor:
        """Mean over tokens of every layer's states, `[B, layers, D]`; what layers are grouped by."""
        _, hidden = self._run(inputs, every_layer=True)
        mask = inputs["attention_mask"].unsqueeze(-1)
        return torch.stack([(states * mask).sum(1) / mask.sum(1) for states in hidden[1:]], dim=1).float()

    def _run(self, inputs: Inputs, *, every_layer: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        seen = self.mllm.model(**inputs, output_hidden_states=every_layer or bool(self.layers), use_cache=False)
        return seen.last_hidden_state, seen.hidden_states or ()

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Named parameters that alignment trains."""
        return ((name, weight) for name, weight in self.named_parameters() if weight.requires_grad)


def _image_marks(config: Any, tokenizer: Any) -> tuple[str, str]:
    """Tokens around an image, in the families whose processor leaves them to the prompt."""
    ids = (getattr(config, "vision_start_token_id", None), getattr(config, "vision_end_token_id", None))
    if ids[0] is None or ids[1] is None:
        return "", ""
    start, end = tokenizer.convert_ids_to_tokens(list(ids))
    return start, end
