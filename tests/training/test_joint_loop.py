import copy

import numpy as np
import pytest
import torch

from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows, users_of
from coldstart.evaluation.metrics import gauc
from coldstart.training.click_loop import score_rows
from coldstart.training.joint_loop import HiddenIds, align_joint
from tests.training.clicks import low_rank_clicks, on_ranks, small_ranker
from tests.training.test_fine_loop import FINE, proxies


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(users=240, cold=12)


@pytest.fixture(scope="module")
def ranker(clicks):
    return small_ranker(clicks, epochs=4)[0]


def align(ranker, clicks, *, content=False, epochs=6, **joint):
    settings = Fine(**FINE | {"patience": 9, "joint": {"epochs": epochs, "ranker_rate": 3e-3, **joint}})
    trained = copy.deepcopy(ranker)
    return align_joint(trained, clicks, *proxies(clicks), settings, seed=1, gauc=gauc, content=content)


def gauc_on(clicks, ranker, slots, member):
    test = UserWindows(clicks, history=12, splits=[2])
    scores = score_rows(lambda batch, step: ranker(batch, slots(batch.target_idx)), test)
    kept = member[clicks.item_idx[test.rows]]
    rows = test.rows[kept]
    return gauc(users_of(clicks, rows), clicks.label[rows], scores[kept])


def aligned_state(ranker, clicks):
    """Weights after one epoch; runs in a spawned rank."""
    return align(ranker, clicks, epochs=1)[0].state_dict()


@pytest.mark.parametrize("content", [False, True])
def test_cold_items_gain_and_known_ones_lose_nothing(clicks, ranker, content):
    joint, _ = align(ranker, clicks, content=content)
    table = joint.table(*(torch.from_numpy(part) for part in proxies(clicks)))
    known = ranker.trained.numpy()
    for member, gain in ((~known, 0.2), (known, 0)):
        before = gauc_on(clicks, ranker, ranker.id_slots, member)
        after = gauc_on(clicks, joint, lambda items: table[items], member)
        assert after > before + gain


def test_plain_features_learn_too(clicks, ranker):
    joint, progress = align(ranker, clicks, reuse=False)
    table = joint.table(*(torch.from_numpy(part) for part in proxies(clicks)))
    cold = ~ranker.trained.numpy()
    assert gauc_on(clicks, joint, lambda items: table[items], cold) > gauc_on(clicks, ranker, ranker.id_slots, cold)
    assert progress.best_epoch >= 0


def test_two_ranks_train_the_same_joint_ranker_as_one(clicks, ranker):
    alone = aligned_state(ranker, clicks)
    together = on_ranks(2, aligned_state, ranker, clicks)
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-3), name


def test_whole_items_are_hidden_and_all_of_them_where_cold_items_are_judged(clicks, ranker):
    joint, _ = align(ranker, clicks, epochs=1)
    coarse, states = (torch.from_numpy(part) for part in proxies(clicks))
    seen = []
    slots = joint.slots
    joint.slots = lambda items, vectors: seen.append(items) or slots(items, vectors)
    model = HiddenIds(joint, coarse, states, share=0.5, seed=0)
    batch = UserWindows(clicks, history=12, splits=[0]).batch(np.arange(30))
    with torch.no_grad():
        model(batch, 3), model(batch, None), model.as_cold(batch, None)
    hidden, plain, cold = seen
    gone = hidden == 0
    shown = set(batch.target_idx[~gone].tolist())
    assert shown.isdisjoint(batch.target_idx[gone].tolist())
    assert 0.2 < len(shown) / len(set(batch.target_idx.flatten().tolist())) < 0.8
    assert torch.equal(plain, batch.target_idx)
    assert (cold == 0).all()
