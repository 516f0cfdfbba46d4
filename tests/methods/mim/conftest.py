import pytest
import torch
import torch.nn.functional as F

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch, rank_request
from coldstart.data.item_table import ItemTable
from coldstart.rankers import DinDcn

ITEMS, WIDTH, HISTORY = 20, 10, 8


@pytest.fixture
def ranker() -> DinDcn:
    """A ranker of 20 items, of which the last three have no trained ID row."""
    torch.manual_seed(0)
    settings = RankerSettings(embedding_dim=6, num_heads=2, max_history=HISTORY, mlp_units=[8], dropout=0.0)
    ranker = DinDcn(ITEMS + 1, settings)
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    ranker.trained[1:18] = True
    return ranker.eval()


@pytest.fixture
def items() -> ItemTable:
    """Content of unit norm; item 0 is unknown and item 5 has no content."""
    content = F.normalize(torch.randn(ITEMS + 1, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
    content[[0, 5]] = 0
    return ItemTable({"content": content})


@pytest.fixture
def batch() -> RankBatch:
    return rank_request([3, 5, 20, 7, 7], [1, 1, 1, 0, 1], [10, 20, 30, 30, 35], [2, 7, 19, 5, 0], 40, history=HISTORY)
