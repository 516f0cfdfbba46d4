from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.data.batches import UserWindows
from coldstart.rankers import digest
from coldstart.training.click_loop import score_rows
from coldstart.training.cold_rows import judged_rows, level, levelled
from tests.training.clicks import low_rank_clicks, on_ranks, small_ranker


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(users=600, cold=12)


@pytest.fixture(scope="module")
def ranker(clicks):
    return small_ranker(clicks, epochs=2)[0]


def astray(ranker):
    """A table off any level: what a unit of it adds is appeal."""
    return ranker.id_rows() + ranker.affinity.appeal.weight.detach() / 2


def foretold(ranker, clicks, table):
    """Mean probability and label, and logits, of the judged rows."""
    valid = UserWindows(clicks, history=12, splits=[1])
    judged = judged_rows(clicks, valid)
    logits = score_rows(lambda batch, step: ranker(batch, table[batch.target_idx]), valid)[judged]
    return (1 / (1 + np.exp(-logits))).mean(), clicks.label[valid.rows][judged].mean(), logits


def test_levelled_vectors_foretell_as_many_clicks_as_there_are(clicks, ranker):
    before = digest(ranker)
    table = astray(ranker)
    mean, rate, logits = foretold(ranker, clicks, table)
    assert abs(mean - rate) > 0.05
    level_table = levelled(table, ranker, clicks)
    mean, rate, moved = foretold(ranker, clicks, level_table)
    assert mean == pytest.approx(rate, abs=1e-3)
    assert np.corrcoef(logits, moved)[0, 1] > 0.95
    assert (moved - logits).std() < 0.2 * abs((moved - logits).mean())
    assert digest(ranker) == before
    assert torch.equal(level_table[0], table[0])
    steps = (level_table - table)[1:]
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)


def test_what_is_level_stays_where_it_is(clicks, ranker):
    once = levelled(astray(ranker), ranker, clicks)
    again = levelled(once, ranker, clicks)
    assert torch.allclose(again, once, atol=1e-3)


def test_a_step_is_as_nearly_alike_for_all_rows_as_can_be(clicks, ranker):
    """A slot with a number of its own, added to the logit, leaves nothing else to be moved."""

    def model(batch, slots):
        return ranker(batch, slots[..., :-1]) + slots[..., -1]

    table = torch.cat([levelled(astray(ranker), ranker, clicks), torch.full((ranker.vocabulary, 1), -0.7)], dim=1)
    step = level(table, model, clicks, history=ranker.history)
    assert step[-1] > 0.5
    _, _, logits = foretold(model, clicks, table)
    _, _, moved = foretold(model, clicks, table + step)
    assert (moved - logits).mean() == pytest.approx(0.7, abs=0.02)
    assert (moved - logits).std() < 0.05


def test_nothing_is_moved_where_nobody_clicked(clicks, ranker):
    valid = UserWindows(clicks, history=ranker.history, splits=[1])
    label = clicks.label.copy()
    label[valid.rows] = 0
    table = astray(ranker)
    assert torch.equal(levelled(table, ranker, replace(clicks, label=label)), table)


def test_nothing_is_moved_for_a_model_that_does_not_look(clicks, ranker):
    def blind(batch, slots):
        return ranker(batch, slots * 0)

    assert not level(astray(ranker), blind, clicks, history=ranker.history).any()


def moved(ranker, clicks):
    """The levelled table; runs in a spawned rank."""
    return {"table": levelled(astray(ranker), ranker, clicks)}


def test_two_ranks_level_as_one_does(clicks, ranker):
    assert torch.allclose(moved(ranker, clicks)["table"], on_ranks(2, moved, ranker, clicks)["table"], atol=1e-4)


def test_cold_rows_are_judged_unless_they_are_too_few(clicks):
    few = low_rank_clicks(users=240, cold=12)
    valid = UserWindows(few, history=12, splits=[1])
    train_items = few.item_idx[few.split == 0]
    cold = ~np.isin(few.item_idx[valid.rows], train_items)
    assert 0 < cold.sum() < 500
    assert judged_rows(few, valid).all()
    valid = UserWindows(clicks, history=12, splits=[1])
    assert np.array_equal(judged_rows(clicks, valid), clicks.item_idx[valid.rows] > 48)
