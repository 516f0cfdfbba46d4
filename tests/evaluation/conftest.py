from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from coldstart.config.recipe import Evaluation
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.features import NO_TARGET_FEATURES, TargetFeatures
from coldstart.evaluation.summary import Rows, Summary, summarise
from coldstart.rankers.interface import Ranker

Scored = tuple[Rows, dict[str, np.ndarray], dict[str, np.ndarray]]


class DotRanker(Ranker):
    """Clicked history rows, averaged, times the slot; plus the slot's first component as appeal."""

    def __init__(self, vocabulary: int, width: int) -> None:
        torch.manual_seed(0)
        super().__init__(vocabulary, RankerSettings(width=width))
        torch.nn.init.normal_(self.id_table.weight)
        self.trained[1:-3] = True

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        seen = batch.visible.float() * batch.history_label[:, None]
        taste = seen @ self.id_slots(batch.history_idx) / seen.sum(-1, keepdim=True).clamp(min=1)
        return (taste * slots).sum(-1) + slots[..., 0]


@dataclass(frozen=True)
class FlatSequences:
    offsets: np.ndarray
    item_idx: np.ndarray
    label: np.ndarray
    timestamp: np.ndarray
    split: np.ndarray
    features: TargetFeatures = NO_TARGET_FEATURES


@pytest.fixture
def sequences() -> FlatSequences:
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 30, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = int(offsets[-1])
    split = np.concatenate([np.where(np.arange(n) < n * 0.7, 0, 2) for n in lengths])
    return FlatSequences(
        offsets=offsets,
        item_idx=rng.integers(1, 21, events),
        label=rng.integers(0, 2, events),
        timestamp=np.concatenate([np.arange(n) for n in lengths]),
        split=split,
    )


@pytest.fixture
def windows(sequences: FlatSequences) -> UserWindows:
    return UserWindows(sequences, history=8, splits=(2,), targets=4)


@pytest.fixture
def ranker() -> Ranker:
    return DotRanker(21, 6).eval()


@pytest.fixture(scope="session")
def scored() -> Scored:
    """Rows, logits and appeal. True log-odds are appeal plus taste; `fine` sees both through noise, `coarse` less."""
    rng = np.random.default_rng(1)
    users, items, n = 200, 60, 8000
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    appeal = rng.normal(0, 1, items)[item]
    taste = (rng.normal(0, 1, (users, 4))[user] * rng.normal(0, 0.5, (items, 4))[item]).sum(1)
    truth = appeal + taste
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    events = np.array([0, 0, 0, 4, 40, 400])[item % 6]
    context = rng.normal(0, 0.3, n)
    cold = events == 0
    seen = {
        "oov": np.zeros(n),
        "id": np.where(cold, 0, truth + rng.normal(0, 0.5, n)),
        "mlp_map": 0.3 * truth + rng.normal(0, 1, n),
        "coarse": 0.6 * truth + rng.normal(0, 1, n),
        "fine": truth + rng.normal(0, 0.7, n),
        "release": np.where(cold, truth + rng.normal(0, 0.7, n), truth),
    }
    logits = {name: values + context for name, values in seen.items()}
    logits |= {"content_oracle": truth, "oracle": truth}
    rows = Rows(user, label, events)
    shared = {"coarse": 0.6 * appeal, "fine": appeal, "content_oracle": appeal}
    return rows, logits, shared


@pytest.fixture(scope="session")
def rows(scored: Scored) -> Rows:
    return scored[0]


@pytest.fixture(scope="session")
def logits(scored: Scored) -> dict[str, np.ndarray]:
    return scored[1]


@pytest.fixture(scope="session")
def appeal(scored: Scored) -> dict[str, np.ndarray]:
    return scored[2]


@pytest.fixture(scope="session")
def summary(rows: Rows, logits: dict[str, np.ndarray], appeal: dict[str, np.ndarray]) -> Summary:
    return summarise(rows, logits, appeal, Evaluation(bootstrap=200), seed=3)
