"""A ranker as a user would write it, and wrong ones, one mistake each."""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.rankers import Ranker


class Dot(Ranker):
    """The slot against the mean of the clicked items' rows minus that of the others."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.item_bias = nn.Linear(self.embedding_dim, 1)

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        sign = batch.history_mask * (2 * batch.history_label - 1)[:, None]
        user = sign @ self.id_slots(batch.history_idx) / (1 + batch.history_mask.sum(-1, keepdim=True))
        return (user * slots).sum(-1) + self.item_bias(slots).squeeze(-1)


class NoSlot(Dot):
    def forward(self, batch):
        return super().forward(batch, self.id_slots(batch.target_idx))


class SlotIgnored(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, self.id_slots(batch.target_idx))


class ItemBesideSlot(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots) + batch.target_idx


class CrossTalk(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots - slots.mean(1, keepdim=True))


class Detached(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots.detach())


class NoHistory(Dot):
    def forward(self, batch, slots):
        return self.item_bias(slots).squeeze(-1)


class FutureSeen(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots) + batch.history_label.sum(-1, keepdim=True)


class PaddingSeen(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots) + batch.history_idx.shape[1]


class BatchSeen(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots) / len(slots)


class Restless(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots + torch.randn_like(slots))


class WrongShape(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots).sum(1)


class NoOov(Dot):
    def id_slots(self, item_idx):
        return self.id_table(item_idx)


class NarrowTable(Dot):
    def id_rows(self):
        return super().id_rows()[:, :-1]


class LoseWeight(Dot):
    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.factor = torch.rand(())

    def forward(self, batch, slots):
        return super().forward(batch, slots) * self.factor


class NanWhenEmpty(Dot):
    def forward(self, batch, slots):
        return super().forward(batch, slots) / batch.history_mask.sum(-1)


class Fails(Dot):
    def forward(self, batch, slots):
        raise KeyError("age")


class Bare(nn.Module):
    """Not a `Ranker`, so most of the interface is missing."""

    def __init__(self, *arguments) -> None:
        super().__init__()
        self.embedding_dim = 8


class NoArguments(nn.Module):
    pass


NOT_A_MODULE = "a string"
