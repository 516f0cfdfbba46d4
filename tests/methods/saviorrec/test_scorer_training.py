import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from coldstart.data.batches import UserWindows, users_of
from coldstart.data.item_table import ItemTable
from coldstart.methods.saviorrec.config import Settings
from coldstart.methods.saviorrec.model import CODES, CONTENT
from coldstart.methods.saviorrec.scorer_training import train_scorer
from coldstart.metrics.clicks import gauc
from coldstart.rankers.storage import weights_sha256
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from tests.methods.saviorrec.conftest import RANK, SIZES
from tests.ranks import on_ranks, preload

preload(__name__)


def train(ranker, clicks, items, *, mode="joint", epochs=4):
    rank = {**RANK, "epochs": epochs, "patience": 9, "learning_rate": 5e-3, "ranker_lr": 3e-3}
    settings = Settings.model_validate({"mode": mode, "rank": rank})
    context = TrainingContext(seed=1, gauc=gauc)
    return train_scorer(copy.deepcopy(ranker), clicks, items, settings, context, sizes=SIZES)


def gauc_on(clicks, score, member):
    test = UserWindows(clicks, history=12, splits=[2])
    scores = score_targets(score, test)
    kept = member[clicks.item_idx[test.event_indices]]
    rows = test.event_indices[kept]
    return gauc(users_of(clicks, rows), clicks.label[rows], scores[kept])


def trained_state(ranker, clicks, columns):
    """Weights after one epoch; runs in a spawned rank."""
    return train(ranker, clicks, ItemTable(columns), epochs=1)[0].state_dict()


@pytest.mark.parametrize("mode", ["joint", "frozen"])
def test_cold_items_gain(ranker, clicks, items, mode):
    scorer, state = train(ranker, clicks, items, mode=mode, epochs=8)
    cold = ~ranker.trained.numpy()
    before = gauc_on(clicks, lambda batch: ranker(batch, ranker.id_slots(batch.target_idx)), cold)
    assert gauc_on(clicks, lambda batch: scorer(batch, items), cold) > before + 0.05
    assert not scorer.training
    assert state.best_epoch >= 0
    assert any(book.abs().sum() > 0 for book in scorer.mba.codebooks)
    assert (weights_sha256(scorer.ranker) == weights_sha256(ranker)) == (mode == "frozen")


def test_a_correction_is_learned_from_codes_alone(ranker, clicks, items):
    """All items have the same content, and clicks depend on the first code; cold items inherit the correction."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.permutation(61) % size + 1 for size in SIZES], 1).astype(np.int16)
    codes[0] = 0
    effect = np.array([0.0, -2, -1, 0, 1, 2])[codes[:, 0]]
    label = rng.random(len(clicks.item_idx)) < 1 / (1 + np.exp(-2 * effect[clicks.item_idx]))
    by_code = replace(clicks, label=label.astype(np.int8))
    content = torch.full_like(items.columns[CONTENT], 0.4)
    content[0] = 0
    cold = ~ranker.trained.numpy()
    found = {}
    for name, order in (("own", np.arange(61)), ("shuffled", np.append(0, 1 + rng.permutation(60)))):
        table = ItemTable({CONTENT: content, CODES: torch.from_numpy(codes[order])})
        scorer, _ = train(ranker, by_code, table, epochs=20)
        found[name] = gauc_on(by_code, partial(scorer, items=table), cold)
    assert found["own"] > 0.75
    assert found["shuffled"] < found["own"] - 0.1


def test_two_ranks_train_the_same_scorer_as_one(ranker, clicks, items):
    alone = trained_state(ranker, clicks, items.columns)
    together = on_ranks(2, trained_state, ranker, clicks, items.columns)
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-3), name
