import numpy as np
import pytest
import torch
from torch import Tensor

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.summary import Summary
from coldstart.rankers.interface import Ranker
from tests.evaluation.rows import drawn_rows, summary_of
from tests.events import Events


class DotRanker(Ranker):
    """Mean of the clicked history rows times the slot, plus the slot's first component as item effect."""

    def __init__(self, vocabulary: int, width: int) -> None:
        torch.manual_seed(0)
        super().__init__(vocabulary, RankerSettings(embedding_dim=width))
        torch.nn.init.normal_(self.id_table.weight)
        self.trained[1:-3] = True

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        seen = batch.history_mask.float() * batch.history_label[:, None]
        interest = seen @ self.id_slots(batch.history_idx) / seen.sum(-1, keepdim=True).clamp(min=1)
        return (interest * slots).sum(-1) + slots[..., 0]


@pytest.fixture
def sequences() -> Events:
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 30, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = int(offsets[-1])
    split = np.concatenate([np.where(np.arange(n) < n * 0.7, 0, 2) for n in lengths])
    return Events(
        offsets=offsets,
        item_idx=rng.integers(1, 21, events),
        label=rng.integers(0, 2, events),
        timestamp=np.concatenate([np.arange(n) for n in lengths]),
        split=split,
    )


@pytest.fixture
def windows(sequences: Events) -> UserWindows:
    return UserWindows(sequences, history=8, splits=(2,), targets=4)


@pytest.fixture
def ranker() -> Ranker:
    return DotRanker(21, 6).eval()


@pytest.fixture(scope="session")
def rows() -> ScoredRows:
    return drawn_rows()


@pytest.fixture(scope="session")
def summary(rows: ScoredRows) -> Summary:
    return summary_of(rows, num_resamples=200, seed=3)
