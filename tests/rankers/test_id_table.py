import pytest
import torch

from coldstart.config.recipe import Table
from coldstart.rankers.id_table import make_id_table

KINDS = ("full", "hashed", "quotient_remainder")


def table(kind, vocabulary=201, width=8, rows=20):
    torch.manual_seed(0)
    return make_id_table(vocabulary, width, Table(kind=kind, rows=rows))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_the_table_answers_for_every_index(kind):
    made = table(kind)
    rows = made.rows()
    assert rows.shape == (201, 8)
    assert not rows.requires_grad
    index = torch.tensor([[0, 5], [200, 5]])
    assert torch.equal(made(index), rows[index])


@pytest.mark.parametrize("kind", KINDS)
def test_training_items_leaves_the_oov_row_alone_and_the_other_way_round(kind):
    made = table(kind)
    made(torch.arange(1, 201)).sum().backward()
    before = made.rows().clone()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter -= parameter.grad
    assert torch.equal(made.rows()[0], before[0])
    assert not torch.equal(made.rows()[1:], before[1:])
    made.zero_grad()
    made(torch.zeros(1, dtype=torch.long)).sum().backward()
    before = made.rows().clone()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter -= parameter.grad
    assert torch.equal(made.rows()[1:], before[1:])
    assert not torch.equal(made.rows()[0], before[0])


@pytest.mark.parametrize(("kind", "numbers"), [("full", 201), ("hashed", 21), ("quotient_remainder", 21 + 11)])
def test_what_a_table_costs(kind, numbers):
    assert sum(parameter.numel() for parameter in table(kind).parameters()) == numbers * 8


def test_every_item_has_its_own_product_of_quotient_and_remainder():
    assert len(table("quotient_remainder").rows().unique(dim=0)) == 201


@pytest.mark.parametrize(("rows", "sharing"), [(300, [1]), (200, [1]), (150, [1, 2]), (20, [10])])
def test_hashed_items_share_rows_evenly(rows, sharing):
    _, hits = table("hashed", rows=rows).rows()[1:].unique(dim=0, return_counts=True)
    assert sorted(hits.unique().tolist()) == sharing


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_guess_is_kept_as_far_as_the_table_can_hold_it(kind):
    made = table(kind, rows=1)
    guess = torch.randn(201, 8)
    guess[0] = 0
    before = made.rows().clone()
    made.start_from(guess, 0.5)
    held = guess if kind == "full" else torch.cat([guess[:1], guess[1:].mean(0).expand(200, -1)])
    assert torch.allclose(made.rows() - before, held * 0.5, atol=0.06)
    assert torch.equal(made.rows()[0], before[0])
