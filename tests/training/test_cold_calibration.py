import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit

from coldstart.data.batches import UserWindows
from coldstart.rankers import weights_sha256
from coldstart.training.cold_calibration import calibrate_table, calibration_shift, early_stopping_mask
from coldstart.training.ctr_trainer import score_targets
from tests.ranks import on_ranks, preload
from tests.training.clicks import low_rank_clicks, small_ranker

preload(__name__)


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(users=600, cold=12)


@pytest.fixture(scope="module")
def ranker(clicks):
    return small_ranker(clicks, epochs=2)[0]


def uncalibrated(ranker):
    """A table with a wrong mean prediction: an offset along the item effect."""
    return ranker.id_rows() + ranker.biased_mf.item_bias.weight.detach() / 2


def logits_of(model, clicks, table):
    """Logits of all validation rows, the early stopping mask, and the labels."""
    valid = UserWindows(clicks, history=12, splits=[1])
    logits = score_targets(lambda batch: model(batch, table[batch.target_idx]), valid)
    return logits, early_stopping_mask(clicks, valid), clicks.label[valid.event_indices]


def target_rate(ranker, clicks):
    """Mean OOV prediction on the masked rows, after an intercept that calibrates it on all validation rows."""
    logits, judged, labels = logits_of(ranker, clicks, ranker.id_rows()[:1].expand_as(ranker.id_rows()))
    shift = brentq(lambda shift: expit(logits + shift).mean() - labels.mean(), -9, 9)
    return expit(logits + shift)[judged].mean()


def test_calibrated_vectors_predict_the_same_ctr_as_unknown_items(clicks, ranker):
    before = weights_sha256(ranker)
    table = uncalibrated(ranker)
    logits, judged, _ = logits_of(ranker, clicks, table)
    assert abs(expit(logits[judged]).mean() - target_rate(ranker, clicks)) > 0.05
    calibrated = calibrate_table(table, ranker, clicks)
    moved = logits_of(ranker, clicks, calibrated)[0][judged]
    assert expit(moved).mean() == pytest.approx(target_rate(ranker, clicks), abs=1e-3)
    steps = moved - logits[judged]
    assert np.corrcoef(logits[judged], moved)[0, 1] > 0.95
    assert steps.std() < 0.2 * abs(steps.mean())
    assert weights_sha256(ranker) == before
    assert torch.equal(calibrated[0], table[0])
    steps = (calibrated - table)[1:]
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)


def test_calibration_does_not_use_the_clicks_of_new_items_alone(clicks, ranker):
    """If every new item is clicked, the prediction moves only with the mean of all rows, which is far less."""
    valid = UserWindows(clicks, history=12, splits=[1])
    label = clicks.label.copy()
    label[valid.event_indices[early_stopping_mask(clicks, valid)]] = 1
    season = replace(clicks, label=label)
    logits, judged, labels = logits_of(ranker, season, calibrate_table(uncalibrated(ranker), ranker, season))
    assert labels[judged].mean() == 1
    assert expit(logits[judged]).mean() == pytest.approx(target_rate(ranker, season), abs=1e-3)
    assert expit(logits[judged]).mean() < 0.9


def test_a_miscalibrated_oov_row_is_corrected_first(clicks, ranker):
    """Such as the untrained OOV row of an imported ranker."""
    off = copy.deepcopy(ranker)
    with torch.no_grad():
        off.id_table.weight[0] += off.biased_mf.item_bias.weight[0]
    before, after = (
        expit(logits_of(one, clicks, calibrate_table(uncalibrated(ranker), one, clicks))[0]).mean()
        for one in (ranker, off)
    )
    unknown = off.id_rows()[:1].expand_as(off.id_rows())
    assert abs(expit(logits_of(off, clicks, unknown)[0]).mean() - before) > 0.05
    assert after == pytest.approx(before, abs=0.02)


def test_a_calibrated_table_stays_unchanged(clicks, ranker):
    once = calibrate_table(uncalibrated(ranker), ranker, clicks)
    again = calibrate_table(once, ranker, clicks)
    assert torch.allclose(again, once, atol=1e-3)


def test_the_shift_is_as_uniform_over_rows_as_possible(clicks, ranker):
    """If a slot contains an additive bias, only that bias is shifted."""

    def model(batch, slots):
        return ranker(batch, slots[..., :-1]) + slots[..., -1]

    table = torch.cat(
        [calibrate_table(uncalibrated(ranker), ranker, clicks), torch.full((ranker.vocab_size, 1), -0.7)], dim=1
    )
    unknown = torch.cat([ranker.id_rows()[0], torch.zeros(1)])
    step = calibration_shift(table, model, unknown, clicks, history=ranker.max_history)
    assert step[-1] > 0.5
    logits, judged, _ = logits_of(model, clicks, table)
    steps = (logits_of(model, clicks, table + step)[0] - logits)[judged]
    assert steps.mean() == pytest.approx(0.7, abs=0.02)
    assert steps.std() < 0.05


def test_nothing_is_shifted_without_clicks(clicks, ranker):
    valid = UserWindows(clicks, history=ranker.max_history, splits=[1])
    label = clicks.label.copy()
    label[valid.event_indices] = 0
    table = uncalibrated(ranker)
    assert torch.equal(calibrate_table(table, ranker, replace(clicks, label=label)), table)


def test_nothing_is_shifted_for_a_model_that_ignores_the_slot(clicks, ranker):
    def blind(batch, slots):
        return ranker(batch, slots * 0)

    assert not calibration_shift(
        uncalibrated(ranker), blind, ranker.id_rows()[0], clicks, history=ranker.max_history
    ).any()


def moved(ranker, clicks):
    """The calibrated table; runs in a spawned rank."""
    return {"table": calibrate_table(uncalibrated(ranker), ranker, clicks)}


def test_two_ranks_calibrate_like_one(clicks, ranker):
    assert torch.allclose(moved(ranker, clicks)["table"], on_ranks(2, moved, ranker, clicks)["table"], atol=1e-4)


def test_early_stopping_uses_cold_rows_unless_there_are_too_few(clicks):
    few = low_rank_clicks(users=240, cold=12)
    valid = UserWindows(few, history=12, splits=[1])
    train_items = few.item_idx[few.split == 0]
    cold = ~np.isin(few.item_idx[valid.event_indices], train_items)
    assert 0 < cold.sum() < 500
    assert early_stopping_mask(few, valid).all()
    valid = UserWindows(clicks, history=12, splits=[1])
    assert np.array_equal(early_stopping_mask(clicks, valid), clicks.item_idx[valid.event_indices] > 48)
