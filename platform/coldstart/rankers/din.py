"""DIN: the deep interest network (Zhou et al. 2018, arXiv:1706.06978, section 4.3 and figure 2).

The local activation unit sees a target, an event and their product. Its first layer is linear in all three, so the
work per pair of target and event is only that of the product, and all targets of a row share the event's part: a pass
costs `B T L d u`, where the paper's form costs `B T L 4 d u` on inputs of that size.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `u` units of the activation unit, `f` feature width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.affinity import Affinity
from coldstart.rankers.age import age_buckets
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import ReadingRanker
from coldstart.rankers.mlp import mlp

UNITS = 4
"""`u`. The paper has 36; the work per pair of target and event grows with it, and on films 16 were no better than 4."""


class Din(ReadingRanker):
    """Sums the history by how much each event bears on the target, and reads slot, sum, taste and habit with an MLP.

    An event is its item's row, bent by whether it was clicked: impressions that were passed over speak too. As in the
    paper the weights are not normalised to one, so the sum tells how strong an interest is; it is divided by the
    root of the history's length to be of the size of a row.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        width = settings.width
        self.affinity = Affinity(width)
        self.label = nn.Embedding(2, 2 * width)
        nn.init.normal_(self.label.weight, std=0.1)
        self.activation = ActivationUnit(width)
        self.known = FeatureEmbedding(features, width)
        self.mlp = mlp(4 * width + 2 + self.known.width, settings.hidden, settings.dropout)

    def read(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Appeal, taste and habit as logits `[B, T]`, and what the MLP reads of slots `[B, T, d]`."""
        history = self.id_slots(batch.history_idx)
        age = age_buckets(batch.target_time, batch.history_time, batch.visible)
        logits, user, habit = self.affinity(batch, slots, history, age)
        gain, shift = self.label(batch.history_label.long()).chunk(2, dim=-1)
        events = history * (1 + gain) + shift
        interest = self.activation(slots, events, batch.visible) / math.sqrt(self.history)
        read = torch.cat([slots, interest, slots * interest, slots * user, habit, self.known(batch)], dim=-1)
        return logits, read


class ActivationUnit(nn.Module):
    """How much each event bears on each target: one hidden layer over target, event and their product.

    Args:
        width: `d`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.target = nn.Linear(width, UNITS)
        self.event = nn.Linear(width, UNITS, bias=False)
        self.product = nn.Linear(width, UNITS, bias=False)
        self.weight = nn.Linear(UNITS, 1)

    def forward(self, slots: Tensor, events: Tensor, visible: Tensor) -> Tensor:
        """Sums `[B, T, d]` of events `[B, L, d]`, weighted for slots `[B, T, d]` among `visible` `[B, T, L]`."""
        # Each target gets a matrix [u, d] that reads events, the product's weights times the slot plus the event's own,
        # and those of a row stand side by side: one multiplication by the row's events does the pairs of all of them.
        reader = torch.addcmul(self.event.weight, slots.unsqueeze(2), self.product.weight)
        target = self.target(slots).flatten(1).unsqueeze(1)
        dtype = events.dtype
        if torch.is_autocast_enabled(events.device.type):
            dtype = torch.get_autocast_dtype(events.device.type)
        parts = (events, reader.flatten(1, 2), target, self.weight.weight[0], self.weight.bias)
        interest: Tensor = _Interest.apply(*(part.to(dtype) for part in parts), visible)  # type: ignore[no-untyped-call]
        return interest.to(events.dtype)


class _Interest(torch.autograd.Function):
    """The activation unit and its weighted sum, without a copy of the pairs for each step of the formula."""

    @staticmethod
    def forward(
        ctx: Any, events: Tensor, reader: Tensor, target: Tensor, weight: Tensor, bias: Tensor, visible: Tensor
    ) -> Tensor:
        hidden = torch.baddbmm(target, events, reader.mT).relu_()
        by_event = (hidden.view(*visible.mT.shape, len(weight)) @ weight).add_(bias).mul_(visible.mT)
        ctx.save_for_backward(events, reader, hidden, by_event, weight, visible)
        return by_event.mT @ events

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        events, reader, hidden, by_event, weight, visible = ctx.saved_tensors
        (grad,) = grads
        to_weights = (events @ grad.mT).mul_(visible.mT)
        flat = to_weights.view(-1, 1)
        pairs = torch.mm(flat, weight.unsqueeze(0)).view_as(hidden)
        torch.ops.aten.threshold_backward.grad_input(pairs, hidden, 0, grad_input=pairs)
        return (
            torch.baddbmm(by_event @ grad, pairs, reader),
            pairs.mT @ events,
            pairs.sum(1, keepdim=True),
            flat[:, 0] @ hidden.view(-1, len(weight)),
            to_weights.sum().unsqueeze(0),
            None,
        )
