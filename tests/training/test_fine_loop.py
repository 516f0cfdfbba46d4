import numpy as np
import pytest
import torch

from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows, users_of
from coldstart.evaluation.metrics import gauc
from coldstart.rankers import digest
from coldstart.training.click_loop import score_rows
from coldstart.training.fine_loop import ProxiedRanker, align_fine, choose_hand_over, item_weights
from tests.training.clicks import low_rank_clicks, on_ranks, small_ranker

FINE = {"hidden": 16, "users_per_step": 16, "dropout": 0.0, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(users=240, cold=12)


@pytest.fixture(scope="module")
def ranker(clicks):
    return small_ranker(clicks, epochs=4)[0]


def proxies(clicks):
    """A perfect encoder: states hold the true traits."""
    states = np.repeat(clicks.traits[:, None], 2, axis=1)
    states = np.concatenate([states, -states, np.ones_like(states)], -1).astype(np.float32)
    coarse = np.random.default_rng(0).normal(size=(len(states), 8)).astype(np.float32)
    return coarse / np.linalg.norm(coarse, axis=1, keepdims=True), states


def align(ranker, clicks, **options):
    settings = Fine(**FINE | options)
    return align_fine(ranker, clicks, *proxies(clicks), settings, history=12, seed=1, gauc=gauc)


def aligned_state(ranker, clicks):
    """Weights after one epoch; runs in a spawned rank."""
    return align(ranker, clicks, epochs=1)[0].state_dict()


def test_fine_proxies_beat_the_oov_row_on_cold_items_and_leave_the_ranker_alone(clicks, ranker):
    before = digest(ranker)
    adaptor, progress = align(ranker, clicks, epochs=6, patience=6)
    assert digest(ranker) == before
    coarse, states = (torch.from_numpy(part) for part in proxies(clicks))
    with torch.no_grad():
        fine = adaptor(coarse, states)
    test = UserWindows(clicks, history=12, splits=[2])
    cold = ~ranker.trained.numpy()[clicks.item_idx[test.rows]]
    rows = test.rows[cold]

    def cold_gauc(slots):
        scores = score_rows(lambda batch, step: ranker(batch, slots(batch.target_idx)), test)[cold]
        return gauc(users_of(clicks, rows), clicks.label[rows], scores)

    valid = UserWindows(clicks, history=12, splits=[1])
    foretold = score_rows(lambda batch, step: ranker(batch, fine[batch.target_idx]), valid)
    assert (1 / (1 + np.exp(-foretold))).mean() == pytest.approx(clicks.label[valid.rows].mean(), abs=2e-3)
    assert cold_gauc(lambda items: fine[items]) > cold_gauc(ranker.id_slots) + 0.1
    assert progress.rows_per_second > 0


def test_two_ranks_align_the_same_adaptor_as_one(clicks, ranker):
    alone = aligned_state(ranker, clicks)
    together = on_ranks(2, aligned_state, ranker, clicks)
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-4), name


def test_the_frozen_ranker_stays_in_eval_mode_without_gradients(clicks, ranker):
    adaptor, _ = align(ranker, clicks, epochs=1)
    coarse, states = (torch.from_numpy(part) for part in proxies(clicks))
    model = ProxiedRanker(adaptor, ranker, coarse, states).train()
    assert model.adaptor.training
    assert not any(module.training for module in model.ranker.modules())
    batch = UserWindows(clicks, history=12, splits=[0]).batch([0, 1])
    model(batch, 0).sum().backward()
    assert all(parameter.grad is None for parameter in model.ranker.parameters())
    assert all(parameter.grad is not None for parameter in adaptor.parameters())


def test_id_rows_as_proxies_give_the_rankers_own_scores(clicks, ranker):
    class Echo(torch.nn.Module):
        def forward(self, coarse, states):
            return coarse

    items = torch.arange(len(clicks.traits))
    model = ProxiedRanker(Echo(), ranker, ranker.id_slots(items), torch.zeros(len(items), 1, 1))
    batch = UserWindows(clicks, history=12, splits=[1]).batch([0, 1, 2])
    with torch.no_grad():
        assert torch.equal(model(batch, None), ranker(batch, ranker.id_slots(batch.target_idx)))


def test_an_items_say_saturates(clicks):
    events = np.bincount(clicks.item_idx[clicks.split == 0], minlength=61)
    plain = item_weights(clicks, 61, evidence=10) * events
    order = np.argsort(events)
    assert (np.diff(plain[order]) >= -1e-5).all()
    often, seldom = order[-1], order[events[order] > 0][0]
    assert plain[often] / plain[seldom] < events[often] / events[seldom]


def test_the_curve_tells_how_long_a_proxy_is_worth_keeping():
    clicks = low_rank_clicks(users=60, cold=12)
    ranker = small_ranker(clicks, epochs=4)[0]
    adaptor, _ = align(ranker, clicks, epochs=1)
    coarse, states = proxies(clicks)
    curve = choose_hand_over(adaptor, ranker, clicks, coarse, states, gauc=gauc)
    assert list(curve) == [0, 3, 10, 30, 100]
    known = np.bincount(clicks.item_idx[clicks.split == 0], minlength=61)[1:49]
    assert 10 <= known.min() < 30 < known.max() < 100
    assert curve[0] == curve[3] == curve[10]
    torch.nn.init.normal_(adaptor.offset, std=3)
    astray = choose_hand_over(adaptor, ranker, clicks, coarse, states, gauc=gauc)
    assert astray[0] == curve[0]
    assert astray[100] < curve[0]
