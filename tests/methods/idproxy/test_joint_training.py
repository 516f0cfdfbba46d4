import copy

import numpy as np
import pytest
import torch

from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows, users_of
from coldstart.methods.idproxy.joint_training import TrainableJointScorer, align_joint
from coldstart.metrics.clicks import gauc
from coldstart.rankers.scorer import drop_target_ids
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from coldstart.training.ranker_training import IdDropout
from tests.methods.idproxy.test_fine_training import FINE, item_table
from tests.ranks import on_ranks, preload
from tests.training.clicks import low_rank_clicks, small_ranker

preload(__name__)


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(users=240, cold=12)


@pytest.fixture(scope="module")
def ranker(clicks):
    return small_ranker(clicks, epochs=4)[0]


def align(ranker, clicks, *, content=False, epochs=6, **joint):
    settings = Fine(**FINE | {"patience": 9, "joint": {"epochs": epochs, "ranker_lr": 3e-3, **joint}})
    trained = copy.deepcopy(ranker)
    context = TrainingContext(seed=1, gauc=gauc)
    return align_joint(trained, clicks, item_table(clicks), settings, context, content=content)


def gauc_on(clicks, ranker, slots, member):
    test = UserWindows(clicks, history=12, splits=[2])
    scores = score_targets(lambda batch: ranker(batch, slots(batch.target_idx)), test)
    kept = member[clicks.item_idx[test.event_indices]]
    rows = test.event_indices[kept]
    return gauc(users_of(clicks, rows), clicks.label[rows], scores[kept])


def aligned_state(ranker, clicks):
    """Weights after one epoch; runs in a spawned rank."""
    return align(ranker, clicks, epochs=1)[0].state_dict()


@pytest.mark.parametrize("content", [False, True])
def test_cold_items_gain_and_known_items_lose_nothing(clicks, ranker, content):
    joint, _ = align(ranker, clicks, content=content)
    table = joint.table(item_table(clicks))
    known = ranker.trained.numpy()
    for member, gain in ((~known, 0.2), (known, 0)):
        before = gauc_on(clicks, ranker, ranker.id_slots, member)
        after = gauc_on(clicks, joint, lambda items: table[items], member)
        assert after > before + gain


def test_plain_features_learn_too(clicks, ranker):
    joint, state = align(ranker, clicks, structure_reuse=False)
    table = joint.table(item_table(clicks))
    cold = ~ranker.trained.numpy()
    assert gauc_on(clicks, joint, lambda items: table[items], cold) > gauc_on(clicks, ranker, ranker.id_slots, cold)
    assert state.best_epoch >= 0


def test_two_ranks_train_the_same_joint_ranker_as_one(clicks, ranker):
    alone = aligned_state(ranker, clicks)
    together = on_ranks(2, aligned_state, ranker, clicks)
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-3), name


def test_ids_are_dropped_per_item_and_all_of_them_in_cold_scoring(clicks, ranker):
    joint, _ = align(ranker, clicks, epochs=1)
    calls = []
    slots = joint.slots
    joint.slots = lambda items, vectors: calls.append(items) or slots(items, vectors)
    scorer, items = TrainableJointScorer(joint), item_table(clicks)
    batch = UserWindows(clicks, history=12, splits=[0]).batch(np.arange(30))
    with torch.no_grad():
        for seen in (IdDropout(share=0.5, seed=0)(batch, 3), batch, drop_target_ids(batch)):
            scorer(seen, items)
    training, scoring, cold = calls
    dropped = training == 0
    kept = set(batch.target_idx[~dropped].tolist())
    assert kept.isdisjoint(batch.target_idx[dropped].tolist())
    assert 0.2 < len(kept) / len(set(batch.target_idx.flatten().tolist())) < 0.8
    assert torch.equal(scoring, batch.target_idx)
    assert (cold == 0).all()
