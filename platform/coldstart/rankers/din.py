"""DIN: the deep interest network (Zhou et al. 2018, arXiv:1706.06978, section 4.3 and figure 2).

The local activation unit sees a target, an event and their product. Its first layer is linear in all three, so the
work per pair of target and event is only that of the product, and all targets of a row share the event's part: a pass
costs `B T L d u`, where the paper's form costs `B T L 4 d u` on inputs of that size.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `u` units of the activation unit, `f` feature width.
"""

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.habit import Habit
from coldstart.rankers.interface import Ranker
from coldstart.rankers.mlp import mlp

UNITS = 16
"""`u`, as in the paper."""


class Din(Ranker):
    """Sums the history by how much each event bears on the target, and reads slot, sum and habit with an MLP.

    An event is its item's row, bent by whether it was clicked: impressions that were passed over speak too. As in the
    paper the weights are not normalised to one, so the sum tells how strong an interest is; it is divided by the
    history's length to be of the size of a row.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        width = settings.width
        self.appeal = nn.Linear(width, 1)
        self.habit = Habit()
        self.label = nn.Embedding(2, 2 * width)
        nn.init.normal_(self.label.weight, std=0.1)
        self.activation = ActivationUnit(width)
        self.known = FeatureEmbedding(features, width)
        self.mlp = mlp(3 * width + 2 + self.known.width, settings.hidden, settings.dropout)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Puts a first guess of appeal (column 0) and tastes `[V, d]` into the ID table."""
        super().start_from(rows)
        self.appeal.weight[0, 0] = 1.0

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` with `slots` `[B, T, d]` standing where the targets' ID embeddings stand."""
        gain, shift = self.label(batch.history_label.long()).chunk(2, dim=-1)
        events = self.id_slots(batch.history_idx) * (1 + gain) + shift
        weight = self.activation(slots, events).masked_fill(~batch.visible.mT, 0)
        interest = weight.mT @ events
        habit = self.habit(batch)
        deep: Tensor = self.mlp(torch.cat([slots, interest, slots * interest, habit, self.known(batch)], -1)).squeeze(
            -1
        )
        appeal: Tensor = self.appeal(slots).squeeze(-1)
        logits: Tensor = appeal + habit[..., 0] + deep
        return logits


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

    def forward(self, slots: Tensor, events: Tensor) -> Tensor:
        """Weights `[B, L, T]` of events `[B, L, d]` for slots `[B, T, d]`."""
        # Each target gets a matrix [d, u] that reads events, the product's weights times the slot plus the event's own,
        # and those of a row stand side by side: one multiplication by the row's events does the pairs of all of them.
        reader = slots.mT.unsqueeze(-1) * self.product.weight.mT.unsqueeze(1) + self.event.weight.mT.unsqueeze(1)
        reader = torch.cat([reader, self.target(slots).unsqueeze(1)], dim=1).flatten(2)
        hidden = (nn.functional.pad(events, (0, 1), value=1.0) @ reader).relu_().unflatten(-1, (-1, UNITS))
        weight: Tensor = self.weight(hidden).squeeze(-1)
        return weight
