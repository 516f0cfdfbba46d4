import numpy as np
import pytest
import torch

from coldstart.data.item_table import ItemTable
from coldstart.methods.baselines.content_to_id_regression import best_content_to_id_regression
from coldstart.methods.idproxy.adaptor import Adaptor, fine_proxies
from coldstart.methods.idproxy.variants import slot_tables
from coldstart.rankers.interface import Ranker

MATURE = np.array([False] + [True] * 17 + [False] * 3)


@pytest.fixture
def items() -> ItemTable:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.nn.functional.normalize(torch.randn(21, 6, generator=generator), dim=-1)
    return ItemTable({"coarse": coarse, "states": torch.randn(21, 2, 4, generator=generator)})


@pytest.fixture
def adaptor() -> Adaptor:
    return Adaptor(6, 2, 4, mlp_units=8, dropout=0.0).eval()


def test_tables_have_the_vectors_of_their_variant(ranker: Ranker, items: ItemTable, adaptor: Adaptor) -> None:
    tables = slot_tables(ranker, adaptor, items, MATURE, seed=3)
    assert list(tables) == ["content_map", "coarse", "fine"]
    ids = ranker.id_rows()
    assert tables["coarse"][1:].norm(dim=-1).mean() == pytest.approx(ids[1:18].norm(dim=-1).mean().item(), rel=1e-5)
    assert torch.equal(tables["fine"][1:], fine_proxies(adaptor, items)[1:])
    mapped = best_content_to_id_regression(items.columns["states"], ids, MATURE, seed=3)
    assert torch.equal(tables["content_map"][1:], mapped[1:])


def test_row_zero_is_oov_in_every_table(ranker: Ranker, items: ItemTable, adaptor: Adaptor) -> None:
    for table in slot_tables(ranker, adaptor, items, MATURE, seed=3).values():
        assert torch.equal(table[0], ranker.id_rows()[0])
