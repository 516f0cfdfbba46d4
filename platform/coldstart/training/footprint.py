"""What a rank of the coarse stage holds in memory, before a machine has to hold it.

States follow from counts (ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054, section 3 and figure 1, with sums of
gradients in float32). What DeepSpeed holds on top of them for a while was read off its allocations, stage by stage, and
is limited by `deepspeed_engine`. Activations are measured: one item is read by a model of the real size whose weights
are all the same zero, so that they take no memory, and what autograd keeps for the backward pass is added up. How near
this comes is measured by `make bench-coarse`.

Legend: `P` all parameters, `T` trained ones, `N` ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coldstart.config.recipe import ContentSwitch
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import ParameterCount, count_parameters
from coldstart.training.deepspeed_engine import BUCKET, LIVE

STAGES = (0, 1, 2, 3)
ALL_REDUCE = 500_000_000
"""Gradients that DeepSpeed sums over ranks at a time where it does not shard them."""
SUM_BYTES = 4
"""Of a gradient as it is summed over passes and stepped with."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Sizes that memory is computed from.

    Attributes:
        counts: Parameters of the encoder.
        value_bytes: Of a weight while computing: 4 in float32, 2 in bfloat16.
        largest_layer: Parameters of the largest module, which ZeRO-3 gathers whole.
        item_bytes: Activations that one item leaves for the backward pass.
        layer_bytes: Of those, what is there for one layer at a time when activations are computed again.
        tokens: Of one item.
    """

    counts: ParameterCount
    value_bytes: int
    largest_layer: int
    item_bytes: int
    layer_bytes: int
    tokens: int

    @property
    def parameters(self) -> int:
        """`P`."""
        return self.counts.trained + self.counts.frozen

    @property
    def stages(self) -> tuple[int, ...]:
        """ZeRO stages that it can be trained with; without one, weights in bfloat16 have no copy in float32."""
        return STAGES if self.value_bytes == 4 else STAGES[1:]

    def states(self, stage: int, ranks: int) -> int:
        """Bytes of weights, gradients and optimizer states on each rank.

        Args:
            stage: ZeRO 0 to 3.
            ranks: `N`.
        """
        trained, everything = self.counts.trained, self.parameters
        weights = self.value_bytes * everything
        gradients = SUM_BYTES * trained
        # Two moments and, where the weights that compute are not the ones that are stepped, a float32 copy of those.
        optimizer = (8 if stage == 0 else 12) * trained
        if stage >= 1:
            optimizer = -(-optimizer // ranks)
        if stage >= 2:
            gradients = -(-gradients // ranks)
        if stage >= 3:
            weights = -(-weights // ranks)
        # With ZeRO 1, the gradients of a pass stay beside their sum.
        apart = self.value_bytes * trained if stage == 1 and self.value_bytes != SUM_BYTES else 0
        return weights + gradients + apart + optimizer

    def exchange(self, stage: int, ranks: int) -> int:
        """Bytes that are held beside the activations while a backward pass goes on.

        Args:
            stage: ZeRO 0 to 3.
            ranks: `N`.
        """
        # One is filled while the other travels; with ZeRO-3, one is cut into pieces for the ranks.
        buckets = 2 * self.value_bytes * BUCKET
        if stage == 3:
            return buckets + self.value_bytes * min(self.parameters, max(LIVE, self.largest_layer))
        if stage == 2:
            return buckets
        whole_in_float32 = stage == 1 and self.value_bytes == SUM_BYTES
        return buckets // 2 + self._share(ranks) if whole_in_float32 else 0

    def update(self, stage: int, ranks: int) -> int:
        """Bytes that are held on top of the states once the activations are gone: the last exchange and the step.

        Args:
            stage: ZeRO 0 to 3.
            ranks: `N`.
        """
        if stage == 0:
            return SUM_BYTES * min(self.counts.trained, ALL_REDUCE)
        if stage == 1 and self.value_bytes != SUM_BYTES:
            return (SUM_BYTES + self.value_bytes) * min(self.counts.trained, ALL_REDUCE)
        # The norm is taken in float64.
        norm = 8 * min(self.largest_layer, -(-self.counts.trained // ranks)) if stage < 3 else 0
        flattened = self._share(ranks) if stage == 3 or self.value_bytes == SUM_BYTES else 0
        return flattened + norm

    def _share(self, ranks: int) -> int:
        """Bytes of the gradients that a rank steps with."""
        return -(-SUM_BYTES * self.counts.trained // ranks)

    def activations(self, items: int) -> int:
        """Bytes that a pass over so many items keeps for its backward pass, and the layer that is in work."""
        return items * (self.item_bytes + self.layer_bytes)

    def total(self, stage: int, ranks: int, items: int) -> int:
        """Bytes on each rank at the peak of a step."""
        backward = self.activations(items) + self.exchange(stage, ranks)
        return self.states(stage, ranks) + max(backward, self.update(stage, ranks))

    def resume_bytes(self) -> int:
        """Bytes of a resumable checkpoint, all ranks together."""
        return self.value_bytes * self.parameters + 12 * self.counts.trained

    def encoder_bytes(self) -> int:
        """Bytes of the encoder that is registered at the end."""
        return self.value_bytes * self.parameters


def footprint(
    mllm: str, settings: EncoderSettings, *, width: int, content: ContentSwitch, sample: Sequence[Content]
) -> Footprint:
    """Measures an encoder without its weights.

    Args:
        mllm: Checkpoint directory or hub name.
        settings: Section of the recipe.
        width: `d`.
        content: Modalities that are read.
        sample: Items to be read, the larger the better: the largest of them counts.

    Raises:
        UserError: an encoder cannot be made as the settings say.
    """

    def outline(checkpointing: bool) -> Encoder:
        chosen = settings.model_copy(update={"gradient_checkpointing": checkpointing})
        return Encoder.outline(mllm, chosen, width=width, content=content)

    def largest(encoder: Encoder) -> tuple[dict[str, Tensor], int]:
        rows = encoder.prepare(list(sample))
        lengths = encoder.prompt.lengths(rows)
        at = int(lengths.argmax())
        one = {name: column[at : at + 1] for name, column in rows.items()}
        return encoder.inputs(one, "cpu"), int(lengths[at])

    return measured(
        outline, largest, dtype=getattr(torch, settings.dtype), checkpointing=settings.gradient_checkpointing
    )


def measured(
    outline: Callable[[bool], Encoder],
    largest: Callable[[Encoder], tuple[dict[str, Tensor], int]],
    *,
    dtype: torch.dtype,
    checkpointing: bool,
) -> Footprint:
    """The footprint of an encoder that need not stand in a checkpoint.

    Args:
        outline: Makes it without weights, with gradient checkpointing or not.
        largest: Inputs of its largest item and how many tokens it has.
        dtype: Of the weights.
        checkpointing: Whether activations are computed again.
    """
    made = outline(checkpointing)
    counts, largest_layer = count_parameters(made), _largest_layer(made)
    encoder = weightless(made, dtype)
    inputs, tokens = largest(encoder)
    kept = _kept(encoder, inputs)
    layer = _kept(weightless(outline(False), dtype), inputs) // _depth(made) if checkpointing else 0
    return Footprint(
        counts=counts,
        value_bytes=dtype.itemsize,
        largest_layer=largest_layer,
        item_bytes=kept,
        layer_bytes=layer,
        tokens=tokens,
    )


def weightless(module: Any, dtype: torch.dtype) -> Any:
    """The module with zeros for weights, each of them one number that is seen everywhere."""
    # A weight that stands in two places stays one.
    made: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if weight not in made:
                empty = torch.zeros((), dtype=dtype).expand(weight.shape)
                made[weight] = nn.Parameter(empty, requires_grad=weight.requires_grad)
            part.register_parameter(name, made[weight])
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return module.train()


def _kept(encoder: Encoder, inputs: dict[str, Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in weights:
            kept[where] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _depth(module: nn.Module) -> int:
    """Layers of the deepest stack."""
    return max((len(part) for part in module.modules() if isinstance(part, nn.ModuleList)), default=1)


def _largest_layer(module: nn.Module) -> int:
    return max(sum(weight.numel() for weight in part.parameters(recurse=False)) for part in module.modules())
