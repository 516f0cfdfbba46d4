"""Estimates the memory of a rank in coarse alignment without loading the model.

Weights, gradients and optimizer states follow from parameter counts (ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054,
section 3 and figure 1, with gradients summed in float32). DeepSpeed's temporary buffers were read from its allocations,
for each stage; `deepspeed_engine` limits their size. Activations are measured: a model of the real size, whose weights
share one zero and so take no memory, encodes one item, and the tensors that autograd saves for the backward pass are
summed. `make bench-coarse` measures the accuracy of the estimate.

Legend: `P` all parameters, `T` trained parameters, `N` ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import ParameterCount, count_parameters
from coldstart.training.deepspeed_engine import BUCKET, LIVE

STAGES = (0, 1, 2, 3)
ALL_REDUCE = 500_000_000
"""Gradients that DeepSpeed reduces at a time when it does not partition them."""
SUM_BYTES = 4
"""Bytes of a gradient that is summed over micro-batches."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory of a rank, computed from these sizes.

    Attributes:
        counts: Parameters of the encoder.
        value_bytes: Bytes of a weight in computation: 4 in float32, 2 in bfloat16.
        largest_layer: Parameters of the largest module, which ZeRO-3 gathers at once.
        item_bytes: Activations that one item saves for the backward pass.
        layer_bytes: Activations of one layer of one item, which gradient checkpointing recomputes.
        tokens: Tokens of one item.
    """

    counts: ParameterCount
    value_bytes: int
    largest_layer: int
    item_bytes: int
    layer_bytes: int
    tokens: int

    @property
    def parameters(self) -> int:
        """All parameters, `P`."""
        return self.counts.trained + self.counts.frozen

    @property
    def stages(self) -> tuple[int, ...]:
        """Possible ZeRO stages; stage 0 has no float32 copy of bfloat16 weights."""
        return STAGES if self.value_bytes == 4 else STAGES[1:]

    def states(self, stage: int, ranks: int) -> int:
        """Bytes of weights, gradients and optimizer states on each rank.

        Args:
            stage: ZeRO 0 to 3.
            ranks: `N`.
        """
        trained = self.counts.trained
        weights = self.value_bytes * self.parameters
        gradients = SUM_BYTES * trained
        # Two moments and, from stage 1 on, a float32 copy of the weights.
        optimizer = (8 if stage == 0 else 12) * trained
        if stage >= 1:
            optimizer = -(-optimizer // ranks)
        if stage >= 2:
            gradients = -(-gradients // ranks)
        if stage >= 3:
            weights = -(-weights // ranks)
        # ZeRO 1 keeps the gradients of a micro-batch in addition to their sum.
        unsummed = self.value_bytes * trained if stage == 1 and self.value_bytes != SUM_BYTES else 0
        return weights + gradients + unsummed + optimizer

    def exchange(self, stage: int, ranks: int) -> int:
        """Bytes of communication buffers during a backward pass, in addition to the activations.

        Args:
            stage: ZeRO 0 to 3.
            ranks: `N`.
        """
        # One is filled while the other is reduced; ZeRO-3 splits one among the ranks.
        buckets = 2 * self.value_bytes * BUCKET
        if stage == 3:
            return buckets + self.value_bytes * min(self.parameters, max(LIVE, self.largest_layer))
        if stage == 2:
            return buckets
        float32_stage_1 = stage == 1 and self.value_bytes == SUM_BYTES
        return buckets // 2 + self._gradient_share(ranks) if float32_stage_1 else 0

    def update(self, stage: int, ranks: int) -> int:
        """Bytes of the last reduction and the optimizer step, in addition to the states, without activations.

        Args:
            stage: ZeRO 0 to 3.
            ranks: `N`.
        """
        if stage == 0:
            return SUM_BYTES * min(self.counts.trained, ALL_REDUCE)
        if stage == 1 and self.value_bytes != SUM_BYTES:
            return (SUM_BYTES + self.value_bytes) * min(self.counts.trained, ALL_REDUCE)
        # The norm is computed in float64.
        norm = 8 * min(self.largest_layer, -(-self.counts.trained // ranks)) if stage < 3 else 0
        flattened = self._gradient_share(ranks) if stage == 3 or self.value_bytes == SUM_BYTES else 0
        return flattened + norm

    def _gradient_share(self, ranks: int) -> int:
        """Bytes of the gradients for which a rank runs the optimizer."""
        return -(-SUM_BYTES * self.counts.trained // ranks)

    def activations(self, items: int) -> int:
        """Bytes that a micro-batch of `items` saves for its backward pass, the recomputed layer included."""
        return items * (self.item_bytes + self.layer_bytes)

    def total(self, stage: int, ranks: int, items: int) -> int:
        """Bytes on each rank at the peak of a step."""
        backward = self.activations(items) + self.exchange(stage, ranks)
        return self.states(stage, ranks) + max(backward, self.update(stage, ranks))

    def resume_bytes(self) -> int:
        """Bytes of a resumable checkpoint of all ranks."""
        return self.value_bytes * self.parameters + 12 * self.counts.trained

    def encoder_bytes(self) -> int:
        """Bytes of the final encoder artifact."""
        return self.value_bytes * self.parameters


def estimate_memory(
    mllm: str, settings: EncoderSettings, *, width: int, content: Modalities, sample: Sequence[Content]
) -> MemoryEstimate:
    """Estimates the memory of an encoder without loading its weights.

    Args:
        mllm: Checkpoint directory or hub name.
        settings: The recipe section `encoder`.
        width: `d`.
        content: Modalities that the encoder reads.
        sample: Items, of which the longest is encoded.

    Raises:
        UserError: the encoder cannot be built from these settings.
    """

    def make_meta(checkpointing: bool) -> Encoder:
        changed = settings.model_copy(update={"gradient_checkpointing": checkpointing})
        return Encoder.on_meta(mllm, changed, width=width, content=content)

    def longest_item(encoder: Encoder) -> tuple[dict[str, Tensor], int]:
        rows = encoder.prepare(list(sample))
        lengths = encoder.prompt.lengths(rows)
        at = int(lengths.argmax())
        row = {name: column[at : at + 1] for name, column in rows.items()}
        return encoder.inputs(row, "cpu"), int(lengths[at])

    return estimate_encoder_memory(
        make_meta, longest_item, dtype=getattr(torch, settings.dtype), checkpointing=settings.gradient_checkpointing
    )


def estimate_encoder_memory(
    make_meta: Callable[[bool], Encoder],
    longest_item: Callable[[Encoder], tuple[dict[str, Tensor], int]],
    *,
    dtype: torch.dtype,
    checkpointing: bool,
) -> MemoryEstimate:
    """Estimates the memory of an encoder that need not be in a checkpoint.

    Args:
        make_meta: Builds the encoder on the meta device, with or without gradient checkpointing.
        longest_item: Returns the inputs of the longest item and its number of tokens.
        dtype: Of the weights.
        checkpointing: Whether gradient checkpointing is on.
    """
    meta = make_meta(checkpointing)
    counts, largest_layer = count_parameters(meta), _largest_layer(meta)
    encoder = with_dummy_weights(meta, dtype)
    inputs, tokens = longest_item(encoder)
    saved = _saved_bytes(encoder, inputs)
    layer = _saved_bytes(with_dummy_weights(make_meta(False), dtype), inputs) // _depth(meta) if checkpointing else 0
    return MemoryEstimate(
        counts=counts,
        value_bytes=dtype.itemsize,
        largest_layer=largest_layer,
        item_bytes=saved,
        layer_bytes=layer,
        tokens=tokens,
    )


def with_dummy_weights(module: Any, dtype: torch.dtype) -> Any:
    """Replaces all weights of a module by expanded zeros, which take no memory."""
    # Tied weights stay tied.
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if weight not in replaced:
                zeros = torch.zeros((), dtype=dtype).expand(weight.shape)
                replaced[weight] = nn.Parameter(zeros, requires_grad=weight.requires_grad)
            part.register_parameter(name, replaced[weight])
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return module.train()


def _saved_bytes(encoder: Encoder, inputs: dict[str, Tensor]) -> int:
    """Bytes that autograd saves for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            saved[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        encoder(inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _depth(module: nn.Module) -> int:
    """Number of layers of the deepest stack."""
    return max((len(part) for part in module.modules() if isinstance(part, nn.ModuleList)), default=1)


def _largest_layer(module: nn.Module) -> int:
    return max(sum(weight.numel() for weight in part.parameters(recurse=False)) for part in module.modules())
