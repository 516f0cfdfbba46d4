"""The default ranker: history target attention, a taste term, crossing (DCNv2) and an MLP on one item slot.

Legend: `B` rows, `T` targets, `L` history, `H` heads, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.features import NO_FEATURES, FeatureSchema
from coldstart.rankers.interface import Ranker

AGE_BUCKETS = 32


class DinDcn(Ranker):
    """Click model that knows an item only by its slot and a user only by the visible history.

    Three readings of slot and history meet in the logit:

    - *appeal*: a linear form of the slot.
    - *taste*: the inner product of the slot with a user vector, the recency-weighted sum of past items' keys, each
      signed by how much the click surpassed what the item's appeal and the user's habit made likely.
    - *crossing*: target attention over the history (DIN), the slot, the slot times the user vector, and the user's
      click rate, crossed by DCNv2 and an MLP.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        width = settings.width
        self.appeal = nn.Linear(width, 1)
        self.taste = _Taste(width)
        self.attention = _TargetAttention(width, settings.heads)
        crossed = 3 * width + 2
        self.cross = nn.ModuleList(nn.Linear(crossed, crossed) for _ in range(settings.cross_layers))
        self.mlp = _mlp(crossed, settings.hidden, settings.dropout)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Puts a first guess of appeal (column 0) and tastes `[V, d]` into the ID table."""
        super().start_from(rows)
        self.appeal.weight[0, 0] = 1.0

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` with `slots` `[B, T, d]` standing where the targets' ID embeddings stand."""
        history = self.id_slots(batch.history_idx)
        age = _age_buckets(batch)
        user, habit = self.taste(batch, history, self.appeal(history).squeeze(-1), age)
        interest = self.attention(slots, history, batch, age)
        match = slots * user
        start = torch.cat([slots, interest, match, habit], dim=-1)
        crossed = start
        for layer in self.cross:
            crossed = start * layer(crossed) + crossed
        deep: Tensor = self.mlp(crossed).squeeze(-1)
        appeal: Tensor = self.appeal(slots).squeeze(-1)
        logits: Tensor = appeal + match.sum(-1) + habit[..., 0] + deep
        return logits


class _Taste(nn.Module):
    """User vector `[B, T, d]` and habit `[B, T, 2]` (logit of the smoothed click rate, log count) from the history."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.key.weight)
        self.recency = nn.Parameter(torch.zeros(AGE_BUCKETS))
        self.prior_rate = nn.Parameter(torch.zeros(()))
        self.log_prior = nn.Parameter(torch.tensor(2.0))
        self.taste_prior = nn.Parameter(torch.full((width,), 2.0))
        self.log_gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: RankBatch, history: Tensor, appeal: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
        visible = batch.visible.to(history.dtype)
        count = visible.sum(-1)
        pseudo = self.log_prior.exp()
        prior = torch.sigmoid(self.prior_rate)
        rate = ((visible @ batch.history_label.unsqueeze(-1)).squeeze(-1) + pseudo * prior) / (count + pseudo)
        weight = visible * self.recency.exp()[age]
        surprise = (batch.history_label - torch.sigmoid(self.prior_rate + appeal)).unsqueeze(-1)
        keys = self.key(history)
        total = weight.sum(-1, keepdim=True)
        usual = (weight @ surprise) / (total + pseudo)
        user = (weight @ (surprise * keys) - usual * (weight @ keys)) / (total + self.taste_prior.exp())
        habit = torch.stack([torch.logit(rate), torch.log1p(count) / 4], dim=-1)
        return user * self.log_gain.exp(), habit


class _TargetAttention(nn.Module):
    """Multi-head attention of targets over their visible past; clicked and unclicked events have their own values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.label = nn.Embedding(2, 2 * width)
        self.recency = nn.Parameter(torch.zeros(heads, AGE_BUCKETS))
        self.nothing = nn.Parameter(torch.zeros(heads, 1, width // heads))
        nn.init.normal_(self.label.weight, std=0.1)

    def forward(self, slots: Tensor, history: Tensor, batch: RankBatch, age: Tensor) -> Tensor:
        key_label, value_label = self.label(batch.history_label.long()).chunk(2, dim=-1)
        query = self._split(self.query(slots))
        key = self._split(self.key(history) + key_label)
        value = self._split(self.value(history) + value_label)
        # A key that is always seen takes the weight of an empty or irrelevant past.
        rows = len(slots)
        key = torch.cat([self.nothing.expand(rows, -1, -1, -1), key], dim=2)
        value = torch.cat([torch.zeros_like(value[:, :, :1]), value], dim=2)
        bias = self.recency[:, age].transpose(0, 1).masked_fill(~batch.visible.unsqueeze(1), float("-inf"))
        bias = F.pad(bias, (1, 0))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.transpose(1, 2).flatten(2)

    def _split(self, vectors: Tensor) -> Tensor:
        """`[B, S, d]` to `[B, H, S, d / H]`."""
        return vectors.reshape(*vectors.shape[:2], self.heads, -1).transpose(1, 2)


def _mlp(width: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _age_buckets(batch: RankBatch) -> Tensor:
    """`[B, T, L]` int64: the whole part of log2 of the age in seconds; 0 for what is not visible."""
    age = (batch.target_time.unsqueeze(-1) - batch.history_time.unsqueeze(-2)).clamp(min=1)
    return torch.frexp(age.float()).exponent.clamp(0, AGE_BUCKETS - 1).long()
