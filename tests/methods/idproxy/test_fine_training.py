import numpy as np
import pytest
import torch

from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows, users_of
from coldstart.data.item_table import ItemTable
from coldstart.methods.idproxy.adaptor import fine_proxies
from coldstart.methods.idproxy.fine_training import (
    FrozenRankerWithProxies,
    align_fine,
    frequency_weights,
    select_warmup_events,
)
from coldstart.metrics.clicks import gauc
from coldstart.rankers import weights_sha256
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from tests.ranks import on_ranks, preload
from tests.training.clicks import low_rank_clicks, small_ranker

preload(__name__)

FINE = {"mlp_units": 16, "windows_per_step": 16, "dropout": 0.0, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(users=240, cold=12)


@pytest.fixture(scope="module")
def ranker(clicks):
    return small_ranker(clicks, epochs=4)[0]


def item_table(clicks):
    """Columns of a perfect encoder, whose states contain the true traits."""
    states = np.repeat(clicks.traits[:, None], 2, axis=1)
    states = np.concatenate([states, -states, np.ones_like(states)], -1).astype(np.float32)
    coarse = np.random.default_rng(0).normal(size=(len(states), 8)).astype(np.float32)
    coarse /= np.linalg.norm(coarse, axis=1, keepdims=True)
    return ItemTable({"coarse": torch.from_numpy(coarse), "states": torch.from_numpy(states)})


def align(ranker, clicks, **options):
    settings = Fine(**FINE | options)
    return align_fine(ranker, clicks, item_table(clicks), settings, TrainingContext(seed=1, gauc=gauc))


def aligned_state(ranker, clicks):
    """Weights after one epoch; runs in a spawned rank."""
    return align(ranker, clicks, epochs=1)[0].state_dict()


def test_fine_proxies_beat_the_oov_row_on_cold_items_and_leave_the_ranker_alone(clicks, ranker):
    before = weights_sha256(ranker)
    adaptor, state = align(ranker, clicks, epochs=6, patience=6)
    assert weights_sha256(ranker) == before
    fine = fine_proxies(adaptor, item_table(clicks))
    test = UserWindows(clicks, history=12, splits=[2])
    cold = ~ranker.trained.numpy()[clicks.item_idx[test.event_indices]]
    rows = test.event_indices[cold]

    def cold_gauc(slots):
        scores = score_targets(lambda batch: ranker(batch, slots(batch.target_idx)), test)[cold]
        return gauc(users_of(clicks, rows), clicks.label[rows], scores)

    valid = UserWindows(clicks, history=12, splits=[1])
    logits = score_targets(lambda batch: ranker(batch, fine[batch.target_idx]), valid)
    assert (1 / (1 + np.exp(-logits))).mean() == pytest.approx(clicks.label[valid.event_indices].mean(), abs=2e-3)
    assert cold_gauc(lambda items: fine[items]) > cold_gauc(ranker.id_slots) + 0.1
    assert state.rows_per_second > 0


def test_two_ranks_align_the_same_adaptor_as_one(clicks, ranker):
    alone = aligned_state(ranker, clicks)
    together = on_ranks(2, aligned_state, ranker, clicks)
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-4), name


def test_the_frozen_ranker_stays_in_eval_mode_without_gradients(clicks, ranker):
    adaptor, _ = align(ranker, clicks, epochs=1)
    scorer = FrozenRankerWithProxies(adaptor, ranker).train()
    assert scorer.adaptor.training
    assert not any(module.training for module in scorer.ranker.modules())
    batch = UserWindows(clicks, history=12, splits=[0]).batch([0, 1])
    scorer(batch, item_table(clicks)).sum().backward()
    assert all(parameter.grad is None for parameter in scorer.ranker.parameters())
    assert all(parameter.grad is not None for parameter in adaptor.parameters())


def test_id_rows_as_proxies_reproduce_the_rankers_scores(clicks, ranker):
    class ReturnCoarse(torch.nn.Module):
        def forward(self, coarse, states):
            return coarse

    rows = torch.arange(len(clicks.traits))
    items = ItemTable({"coarse": ranker.id_slots(rows), "states": torch.zeros(len(rows), 1, 1)})
    scorer = FrozenRankerWithProxies(ReturnCoarse(), ranker)
    batch = UserWindows(clicks, history=12, splits=[1]).batch([0, 1, 2])
    with torch.no_grad():
        assert torch.equal(scorer(batch, items), ranker(batch, ranker.id_slots(batch.target_idx)))


def test_the_total_weight_of_an_item_saturates(clicks):
    events = np.bincount(clicks.item_idx[clicks.split == 0], minlength=61)
    totals = frequency_weights(clicks, 61, half_weight=10) * events
    order = np.argsort(events)
    assert (np.diff(totals[order]) >= -1e-5).all()
    most, least = order[-1], order[events[order] > 0][0]
    assert totals[most] / totals[least] < events[most] / events[least]


def test_the_warmup_curve_has_a_gauc_for_each_choice():
    clicks = low_rank_clicks(users=60, cold=12)
    ranker = small_ranker(clicks, epochs=4)[0]
    adaptor, _ = align(ranker, clicks, epochs=1)
    curve = select_warmup_events(adaptor, ranker, clicks, item_table(clicks), gauc=gauc)
    assert list(curve) == [0, 3, 10, 30, 100]
    known = np.bincount(clicks.item_idx[clicks.split == 0], minlength=61)[1:49]
    assert 10 <= known.min() < 30 < known.max() < 100
    assert curve[0] == curve[3] == curve[10]
    torch.nn.init.normal_(adaptor.offset, std=3)
    with_bad_proxies = select_warmup_events(adaptor, ranker, clicks, item_table(clicks), gauc=gauc)
    assert with_bad_proxies[0] == curve[0]
    assert with_bad_proxies[100] < curve[0]
