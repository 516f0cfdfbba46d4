"""DIN: the deep interest network (Zhou et al. 2018, arXiv:1706.06978, section 4.3 and figure 2).

The local activation unit reads a target, an event and their product. Its first layer is linear in all three. So only
the product costs work per pair of target and event, and all targets of a row share the event's term: a forward pass
costs `B T L d u`; the paper's form costs `B T L 4 d u`.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `u` units of the activation unit, `f` feature width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.modules.mlp import mlp
from coldstart.modules.time_gap import time_gap_buckets
from coldstart.rankers.biased_mf import BiasedMF
from coldstart.rankers.feature_embedding import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import InteractionRanker

UNITS = 4
"""`u`. The paper has 36. The work per pair of target and event grows with it, and 16 were no better than 4 on films."""


class Din(InteractionRanker):
    """Weights the history by the relevance of each event to the target; an MLP reads slot, sum, user vector and CTR.

    An event is its item's row with a scale and a shift that depend on the click label, so skipped impressions count
    as well. As in the paper, the weights are not normalized to one, so that the sum keeps the strength of an interest.
    It is divided by the square root of the history's length, to have about the norm of an ID row.

    Args:
        vocab_size: `V`, items + 1.
        settings: The recipe's section `ranker`.
        features: Features of user, item and context in the dataset.
    """

    def __init__(self, vocab_size: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocab_size, settings, features)
        width = settings.embedding_dim
        self.biased_mf = BiasedMF(width)
        self.label_embedding = nn.Embedding(2, 2 * width)
        nn.init.normal_(self.label_embedding.weight, std=0.1)
        self.activation_unit = ActivationUnit(width)
        self.feature_embedding = FeatureEmbedding(features, width)
        self.mlp = mlp(4 * width + 2 + self.feature_embedding.width, settings.mlp_units, settings.dropout)

    def interact(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` of `BiasedMF`, and the input of the MLP, for slots `[B, T, d]`."""
        history = self.id_slots(batch.history_idx)
        time_gap = time_gap_buckets(batch.target_time, batch.history_time, batch.history_mask)
        logits, user, user_ctr = self.biased_mf(batch, slots, history, time_gap)
        gain, shift = self.label_embedding(batch.history_label.long()).chunk(2, dim=-1)
        events = history * (1 + gain) + shift
        interest = self.activation_unit(slots, events, batch.history_mask) / math.sqrt(self.max_history)
        features = self.feature_embedding(batch)
        return logits, torch.cat([slots, interest, slots * interest, slots * user, user_ctr, features], dim=-1)


class ActivationUnit(nn.Module):
    """Local activation unit: the weight of each event for each target, by one hidden layer over both and their product.

    Args:
        width: `d`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.target = nn.Linear(width, UNITS)
        self.event = nn.Linear(width, UNITS, bias=False)
        self.product = nn.Linear(width, UNITS, bias=False)
        self.weight = nn.Linear(UNITS, 1)

    def forward(self, slots: Tensor, events: Tensor, history_mask: Tensor) -> Tensor:
        """Sums `[B, T, d]` of events `[B, L, d]`, weighted for slots `[B, T, d]` where `history_mask` `[B, T, L]`."""
        # Each target has a matrix [u, d] that is applied to events: the product's weights times the slot, plus the
        # event's own weights. The matrices of a row are stacked, so one multiplication handles all its pairs.
        projection = torch.addcmul(self.event.weight, slots.unsqueeze(2), self.product.weight)
        target = self.target(slots).flatten(1).unsqueeze(1)
        dtype = events.dtype
        if torch.is_autocast_enabled(events.device.type):
            dtype = torch.get_autocast_dtype(events.device.type)
        parts = (events, projection.flatten(1, 2), target, self.weight.weight[0], self.weight.bias)
        interest: Tensor = _Interest.apply(*(part.to(dtype) for part in parts), history_mask)  # type: ignore[no-untyped-call]
        return interest.to(events.dtype)


class _Interest(torch.autograd.Function):
    """The activation unit and its weighted sum, without one copy of all pairs per step of the formula."""

    @staticmethod
    def forward(
        ctx: Any, events: Tensor, projection: Tensor, target: Tensor, weight: Tensor, bias: Tensor, history_mask: Tensor
    ) -> Tensor:
        hidden = torch.baddbmm(target, events, projection.mT).relu_()
        by_event = (hidden.view(*history_mask.mT.shape, len(weight)) @ weight).add_(bias).mul_(history_mask.mT)
        ctx.save_for_backward(events, projection, hidden, by_event, weight, history_mask)
        return by_event.mT @ events

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        events, projection, hidden, by_event, weight, history_mask = ctx.saved_tensors
        (grad,) = grads
        to_weights = (events @ grad.mT).mul_(history_mask.mT)
        flat = to_weights.view(-1, 1)
        pairs = torch.mm(flat, weight.unsqueeze(0)).view_as(hidden)
        torch.ops.aten.threshold_backward.grad_input(pairs, hidden, 0, grad_input=pairs)
        return (
            torch.baddbmm(by_event @ grad, pairs, projection),
            pairs.mT @ events,
            pairs.sum(1, keepdim=True),
            flat[:, 0] @ hidden.view(-1, len(weight)),
            to_weights.sum().unsqueeze(0),
            None,
        )
