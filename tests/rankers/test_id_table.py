import pytest
import torch

from coldstart.config.recipe import Table
from coldstart.rankers.id_table import make_id_table

KINDS = ("full", "hashed", "quotient_remainder")


def table(kind, vocab_size=201, embedding_dim=8, rows=20):
    torch.manual_seed(0)
    return make_id_table(vocab_size, embedding_dim, Table(kind=kind, rows=rows))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_equal_lookups_of_all_indices(kind):
    id_table = table(kind)
    rows = id_table.rows()
    assert rows.shape == (201, 8)
    assert not rows.requires_grad
    index = torch.tensor([[0, 5], [200, 5]])
    assert torch.equal(id_table(index), rows[index])


@pytest.mark.parametrize("kind", KINDS)
def test_training_items_does_not_change_the_oov_row_and_vice_versa(kind):
    id_table = table(kind)
    id_table(torch.arange(1, 201)).sum().backward()
    before = id_table.rows().clone()
    with torch.no_grad():
        for parameter in id_table.parameters():
            parameter -= parameter.grad
    assert torch.equal(id_table.rows()[0], before[0])
    assert not torch.equal(id_table.rows()[1:], before[1:])
    id_table.zero_grad()
    id_table(torch.zeros(1, dtype=torch.long)).sum().backward()
    before = id_table.rows().clone()
    with torch.no_grad():
        for parameter in id_table.parameters():
            parameter -= parameter.grad
    assert torch.equal(id_table.rows()[1:], before[1:])
    assert not torch.equal(id_table.rows()[0], before[0])


@pytest.mark.parametrize(("kind", "numbers"), [("full", 201), ("hashed", 21), ("quotient_remainder", 21 + 11)])
def test_number_of_parameters(kind, numbers):
    assert sum(parameter.numel() for parameter in table(kind).parameters()) == numbers * 8


def test_every_item_has_its_own_product_of_quotient_and_remainder():
    assert len(table("quotient_remainder").rows().unique(dim=0)) == 201


@pytest.mark.parametrize(("rows", "items_per_row"), [(300, [1]), (200, [1]), (150, [1, 2]), (20, [10])])
def test_hashed_items_share_rows_evenly(rows, items_per_row):
    _, hits = table("hashed", rows=rows).rows()[1:].unique(dim=0, return_counts=True)
    assert sorted(hits.unique().tolist()) == items_per_row


@pytest.mark.parametrize("kind", KINDS)
def test_initial_embeddings_are_added_as_far_as_the_table_can_represent_them(kind):
    id_table = table(kind, rows=1)
    initial = torch.randn(201, 8)
    initial[0] = 0
    before = id_table.rows().clone()
    id_table.init_from(initial, 0.5)
    expected = initial if kind == "full" else torch.cat([initial[:1], initial[1:].mean(0).expand(200, -1)])
    assert torch.allclose(id_table.rows() - before, expected * 0.5, atol=0.06)
    assert torch.equal(id_table.rows()[0], before[0])
