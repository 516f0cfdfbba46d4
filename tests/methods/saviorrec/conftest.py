import numpy as np
import pytest
import torch

from coldstart.data.item_table import ItemTable
from coldstart.methods.saviorrec.config import Rank
from coldstart.methods.saviorrec.model import CODES, CONTENT, SaviorScorer
from tests.training.clicks import low_rank_clicks, small_ranker

WIDTH, SIZES = 6, (5, 4)
RANK = {"attention_width": 8, "fusion_units": 16, "mlp_units": (16,), "dropout": 0.0, "windows_per_step": 16}


@pytest.fixture(scope="session")
def clicks():
    return low_rank_clicks(users=120, cold=12)


@pytest.fixture(scope="session")
def ranker(clicks):
    """A ranker that was trained on these clicks; copy it before changing it."""
    return small_ranker(clicks, epochs=2)[0]


@pytest.fixture(scope="session")
def items(clicks) -> ItemTable:
    """Content that tells the items' traits, and random codes; row 0 is the unknown item."""
    rng = np.random.default_rng(5)
    content = clicks.traits @ rng.normal(size=(clicks.traits.shape[1], WIDTH)) + 0.1 * rng.normal(size=(61, WIDTH))
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    codes = np.stack([rng.integers(1, size + 1, 61) for size in SIZES], 1)
    content[0] = codes[0] = 0
    table = {CONTENT: torch.from_numpy(content.astype(np.float32)), CODES: torch.from_numpy(codes.astype(np.int16))}
    return ItemTable(table)


def make_scorer(ranker, *, frozen=False, seed=0, **ablate) -> SaviorScorer:
    torch.manual_seed(seed)
    return SaviorScorer(ranker, WIDTH, SIZES, Rank(**RANK, ablate=ablate), frozen=frozen)
