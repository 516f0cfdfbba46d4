import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.rankers import DinDcn
from coldstart.rankers.interface import Ranker


@pytest.fixture
def ranker() -> Ranker:
    """A ranker of 20 items, of which the last three have no trained ID row."""
    torch.manual_seed(0)
    ranker = DinDcn(21, RankerSettings(embedding_dim=6, num_heads=2, max_history=8, mlp_units=[8]))
    torch.nn.init.normal_(ranker.id_table.weight)
    ranker.trained[1:18] = True
    return ranker.eval()
