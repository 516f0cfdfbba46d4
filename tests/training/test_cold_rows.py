import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit

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


def logits_of(model, clicks, table):
    """Logits of all valid rows, which of them are judged, and their labels."""
    valid = UserWindows(clicks, history=12, splits=[1])
    logits = score_rows(lambda batch, step: model(batch, table[batch.target_idx]), valid)
    return logits, judged_rows(clicks, valid), clicks.label[valid.rows]


def aim(ranker, clicks):
    """Mean probability of judged rows as unknown items, after the shift with which all valid rows get their clicks."""
    logits, judged, labels = logits_of(ranker, clicks, ranker.id_rows()[:1].expand_as(ranker.id_rows()))
    shift = brentq(lambda shift: expit(logits + shift).mean() - labels.mean(), -9, 9)
    return expit(logits + shift)[judged].mean()


def test_levelled_vectors_foretell_as_many_clicks_as_unknown_items(clicks, ranker):
    before = digest(ranker)
    table = astray(ranker)
    logits, judged, _ = logits_of(ranker, clicks, table)
    assert abs(expit(logits[judged]).mean() - aim(ranker, clicks)) > 0.05
    level_table = levelled(table, ranker, clicks)
    moved = logits_of(ranker, clicks, level_table)[0][judged]
    assert expit(moved).mean() == pytest.approx(aim(ranker, clicks), abs=1e-3)
    steps = moved - logits[judged]
    assert np.corrcoef(logits[judged], moved)[0, 1] > 0.95
    assert steps.std() < 0.2 * abs(steps.mean())
    assert digest(ranker) == before
    assert torch.equal(level_table[0], table[0])
    steps = (level_table - table)[1:]
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)


def test_new_items_are_not_levelled_on_the_season_they_appeared_in(clicks, ranker):
    """Where every new item is clicked, all rows together move the level, and by far less."""
    valid = UserWindows(clicks, history=12, splits=[1])
    label = clicks.label.copy()
    label[valid.rows[judged_rows(clicks, valid)]] = 1
    season = replace(clicks, label=label)
    logits, judged, labels = logits_of(ranker, season, levelled(astray(ranker), ranker, season))
    assert labels[judged].mean() == 1
    assert expit(logits[judged]).mean() == pytest.approx(aim(ranker, season), abs=1e-3)
    assert expit(logits[judged]).mean() < 0.9


def test_an_oov_row_that_is_off_its_level_is_set_right_first(clicks, ranker):
    """As of a ranker from elsewhere, whose OOV row nobody trained."""
    off = copy.deepcopy(ranker)
    with torch.no_grad():
        off.id_table.weight[0] += off.affinity.appeal.weight[0]
    before, after = (
        expit(logits_of(one, clicks, levelled(astray(ranker), one, clicks))[0]).mean() for one in (ranker, off)
    )
    unknown = off.id_rows()[:1].expand_as(off.id_rows())
    assert abs(expit(logits_of(off, clicks, unknown)[0]).mean() - before) > 0.05
    assert after == pytest.approx(before, abs=0.02)


def test_what_is_level_stays_where_it_is(clicks, ranker):
    once = levelled(astray(ranker), ranker, clicks)
    again = levelled(once, ranker, clicks)
    assert torch.allclose(again, once, atol=1e-3)


def test_a_step_is_as_nearly_alike_for_all_rows_as_can_be(clicks, ranker):
    """A slot with a number of its own, added to the logit, leaves nothing else to be moved."""

    def model(batch, slots):
        return ranker(batch, slots[..., :-1]) + slots[..., -1]

    table = torch.cat([levelled(astray(ranker), ranker, clicks), torch.full((ranker.vocabulary, 1), -0.7)], dim=1)
    unknown = torch.cat([ranker.id_rows()[0], torch.zeros(1)])
    step = level(table, model, unknown, clicks, history=ranker.history)
    assert step[-1] > 0.5
    logits, judged, _ = logits_of(model, clicks, table)
    steps = (logits_of(model, clicks, table + step)[0] - logits)[judged]
    assert steps.mean() == pytest.approx(0.7, abs=0.02)
    assert steps.std() < 0.05


def test_nothing_is_moved_where_nobody_clicked(clicks, ranker):
    valid = UserWindows(clicks, history=ranker.history, splits=[1])
    label = clicks.label.copy()
    label[valid.rows] = 0
    table = astray(ranker)
    assert torch.equal(levelled(table, ranker, replace(clicks, label=label)), table)


def test_nothing_is_moved_for_a_model_that_does_not_look(clicks, ranker):
    def blind(batch, slots):
        return ranker(batch, slots * 0)

    assert not level(astray(ranker), blind, ranker.id_rows()[0], clicks, history=ranker.history).any()


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
