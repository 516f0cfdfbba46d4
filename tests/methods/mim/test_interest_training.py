"""Stage 3 of MIM: the content of the history separates clicks that no ID could; content itself does not learn."""

import numpy as np
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import UserWindows
from coldstart.data.item_table import ItemTable
from coldstart.methods.mim.config import Interest
from coldstart.methods.mim.interest_training import make_optimizer, train_scorer
from coldstart.methods.mim.scorer import ContentInterestScorer
from coldstart.metrics.clicks import gauc
from coldstart.rankers import DinDcn
from coldstart.rankers.scorer import drop_target_ids
from coldstart.training.ctr_trainer import TrainingContext, gauc_of, score_targets
from coldstart.training.ranker_training import VALID
from tests.methods.colored_catalog import ITEMS, clicks

WIDTH = 8
SETTINGS = Interest(epochs=4, patience=4, windows_per_step=4, learning_rate=0.02, id_dropout=0.5)


def new_ranker() -> DinDcn:
    torch.manual_seed(0)
    settings = RankerSettings(embedding_dim=4, num_heads=1, max_history=16, mlp_units=[16], dropout=0.0)
    ranker = DinDcn(ITEMS + 1, settings)
    ranker.trained[1:] = True
    return ranker


def colored_items() -> ItemTable:
    """Items of one color have nearly the same content."""
    rng = np.random.default_rng(1)
    content = rng.normal(size=(4, WIDTH))[np.arange(ITEMS + 1) % 4] + 0.1 * rng.normal(size=(ITEMS + 1, WIDTH))
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    content[0] = 0
    return ItemTable({"content": torch.from_numpy(content.astype(np.float32))})


def cold_gauc(scorer: ContentInterestScorer, items: ItemTable) -> float:
    events = clicks()
    windows = UserWindows(events, history=16, splits=[VALID])
    scores = score_targets(lambda batch: scorer(drop_target_ids(batch), items), windows)
    return gauc_of(events, windows.event_indices, scores, gauc, among=np.ones(len(scores), bool))


def test_clicks_teach_the_interest_and_leave_the_content_bit_identical():
    items = colored_items()
    before = items.columns["content"].clone()
    scorer, state = train_scorer(new_ranker(), clicks(), items, SETTINGS, TrainingContext(seed=3, gauc=gauc))
    assert state.epoch == 4
    assert torch.equal(items.columns["content"], before)
    assert not items.columns["content"].requires_grad
    assert cold_gauc(scorer, items) > 0.8
    shuffled = ItemTable({"content": items.columns["content"][torch.randperm(ITEMS + 1)]})
    assert cold_gauc(scorer, shuffled) < cold_gauc(scorer, items) - 0.15


def test_every_weight_but_the_replaced_mlp_is_trained_once():
    scorer = ContentInterestScorer(new_ranker(), WIDTH, SETTINGS)
    optimizer = make_optimizer(scorer)
    trained = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    replaced = {id(weight) for weight in scorer.id_unit.mlp.parameters()}
    assert len(trained) == len(set(trained))
    assert set(trained) == {id(weight) for weight in scorer.parameters()} - replaced
