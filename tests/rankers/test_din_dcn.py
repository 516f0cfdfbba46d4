import dataclasses

import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import rank_request
from coldstart.rankers import DinDcn

ITEMS = 20


@pytest.fixture
def ranker():
    torch.manual_seed(0)
    model = DinDcn(ITEMS + 1, RankerSettings(width=8, hidden=(16,)))
    model.trained[1:16] = True
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def request_batch():
    return rank_request([3, 9, 3, 17], [1, 0, 1, 1], [100, 200, 5_000, 90_000], [1, 2, 18, 3], 100_000, history=10)


def scores(ranker, batch):
    with torch.no_grad():
        return ranker(batch, ranker.id_slots(batch.target_idx))


def test_the_slot_alone_says_which_item_is_scored(ranker, request_batch):
    elsewhere = dataclasses.replace(request_batch, target_idx=torch.full_like(request_batch.target_idx, 5))
    slots = ranker.id_slots(request_batch.target_idx)
    with torch.no_grad():
        assert torch.equal(ranker(elsewhere, slots), ranker(request_batch, slots))
    assert scores(ranker, request_batch).shape == (1, 4)


def test_untrained_items_read_the_oov_row(ranker):
    slots = ranker.id_slots(torch.tensor([[1, 16, 20, 0]]))
    assert torch.equal(slots[0, 1], ranker.id_table.weight[0])
    assert torch.equal(slots[0, 2], slots[0, 3])
    assert not torch.equal(slots[0, 0], slots[0, 1])


def test_what_is_not_visible_changes_nothing(ranker, request_batch):
    visible = request_batch.visible.clone()
    visible[..., -1] = False
    hidden = dataclasses.replace(request_batch, visible=visible)
    label, item, time = (getattr(hidden, name).clone() for name in ("history_label", "history_idx", "history_time"))
    label[0, -1], item[0, -1], time[0, -1] = 0, 6, 7
    other = dataclasses.replace(hidden, history_label=label, history_idx=item, history_time=time)
    assert torch.equal(scores(ranker, hidden), scores(ranker, other))
    assert not torch.equal(scores(ranker, hidden), scores(ranker, request_batch))


@pytest.mark.parametrize("field", ["history_label", "history_idx", "history_time"])
def test_every_part_of_the_history_counts(ranker, request_batch, field):
    value = getattr(request_batch, field).clone()
    value[0, 0] = {"history_label": 0, "history_idx": 12, "history_time": 99_000}[field]
    other = dataclasses.replace(request_batch, **{field: value})
    assert not torch.allclose(scores(ranker, request_batch), scores(ranker, other))


def test_an_empty_history_gives_finite_scores_and_gradients(ranker):
    batch = rank_request([], [], [], [1, 2], 10, history=5)
    logits = ranker(batch, ranker.id_slots(batch.target_idx))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in ranker.parameters() if p.grad is not None)


def test_targets_of_a_row_do_not_see_each_other(ranker, request_batch):
    alone = dataclasses.replace(
        request_batch,
        target_idx=request_batch.target_idx[:, 1:2],
        target_time=request_batch.target_time[:, 1:2],
        visible=request_batch.visible[:, 1:2],
    )
    assert torch.allclose(scores(ranker, alone)[0, 0], scores(ranker, request_batch)[0, 1], atol=1e-6)
