from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.config import MetricsLog
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import UserWindows, rank_request, users_of
from coldstart.metrics.clicks import gauc
from coldstart.rankers.ranker_classes import RANKERS
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from coldstart.training.ranker_training import drop_ids, train_ranker
from tests.ranks import on_ranks, preload
from tests.training.clicks import SMALL, low_rank_clicks, small_ranker, trained_states

preload(__name__)


@pytest.fixture(scope="module")
def clicks():
    return low_rank_clicks(cold=10)


@pytest.fixture(scope="module", params=list(RANKERS))
def trained(request, clicks):
    return small_ranker(clicks, epochs=6, kind=request.param)


def share_learned(clicks, ranker):
    """The ranker's GAUC above chance on test events of known items, as a share of that of the true probabilities."""
    test = UserWindows(clicks, history=12, splits=[2])
    scores = score_targets(lambda batch: ranker(batch, ranker.id_slots(batch.target_idx)), test)
    known = np.isin(clicks.item_idx[test.event_indices], np.unique(clicks.item_idx[clicks.split == 0]))
    rows = test.event_indices[known]
    found = gauc(users_of(clicks, rows), clicks.label[rows], scores[known])
    oracle = gauc(users_of(clicks, rows), clicks.label[rows], clicks.p_click[rows])
    return (found - 0.5) / (oracle - 0.5)


def test_a_short_training_learns_preferences(clicks, trained):
    ranker, state = trained
    assert share_learned(clicks, ranker) > 0.4
    assert state.best == max(state.history)


def test_half_precision_learns_as_much_and_scores_in_float32(clicks):
    ranker, _ = small_ranker(clicks, epochs=6, precision="bfloat16")
    full, _ = small_ranker(clicks, epochs=6)
    assert all(value.dtype in (torch.float32, torch.bool) for value in ranker.state_dict().values())
    assert not torch.equal(ranker.id_rows(), full.id_rows())
    assert share_learned(clicks, ranker) == pytest.approx(share_learned(clicks, full), abs=0.1)


def test_two_ranks_train_the_same_rankers_as_one(clicks):
    together = on_ranks(2, trained_states, clicks, list(RANKERS))
    assert list(together) == list(RANKERS)
    for kind, state in together.items():
        alone, _ = small_ranker(clicks, kind=kind)
        for name, value in alone.state_dict().items():
            assert torch.allclose(value.float(), state[name].float(), atol=2e-4), f"{kind}: {name}"


def test_cold_items_are_scored_as_the_oov_row(clicks, trained):
    ranker, _ = trained
    train_items = set(clicks.item_idx[clicks.split == 0].tolist())
    assert set(torch.nonzero(ranker.trained).flatten().tolist()) == train_items
    cold = [item for item in range(1, 61) if item not in train_items]
    request = rank_request([1, 2], [1, 0], [10, 20], [*cold, 0], 30, history=12)
    logits = ranker(request, ranker.id_slots(request.target_idx))[0]
    assert torch.allclose(logits, logits[-1].expand_as(logits))


def test_a_served_score_equals_the_offline_score(clicks, trained):
    ranker, _ = trained
    windows = UserWindows(clicks, history=12, splits=[1, 2], targets=5)
    batch = windows.batch([3])
    with torch.no_grad():
        offline = ranker(batch, ranker.id_slots(batch.target_idx))[0]
        for t, row in enumerate(batch.event_index[0].tolist()):
            user = np.searchsorted(clicks.offsets, row, side="right") - 1
            own = slice(clicks.offsets[user], clicks.offsets[user + 1])
            request = rank_request(
                clicks.item_idx[own],
                clicks.label[own],
                clicks.timestamp[own],
                [clicks.item_idx[row], 7],
                int(clicks.timestamp[row]),
                history=12,
            )
            served = ranker(request, ranker.id_slots(request.target_idx))[0, 0]
            assert torch.isclose(served, offline[t], atol=1e-5)


def test_dropped_ids_are_a_seeded_share_that_changes_by_step():
    items = torch.arange(1, 20_001)
    first, again, later = (drop_ids(items, share=0.1, seed=5, step=step) for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert 0.08 < (first == 0).float().mean() < 0.12
    assert torch.equal(first[first > 0], items[first > 0])
    both = (first == 0) & (later == 0)
    assert 0.005 < both.float().mean() < 0.02


def test_an_interrupted_run_resumes_to_the_same_weights(clicks, tmp_path):
    settings = RankerSettings(**SMALL | {"epochs": 3, "patience": 3})
    uninterrupted, _ = train_ranker(clicks, 60, settings, TrainingContext(seed=3, gauc=gauc))
    calls = 0

    def dies_in_the_second_epoch(*arguments):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return gauc(*arguments)

    metrics_log = MetricsLog(tmp_path / "metrics.jsonl")
    context = TrainingContext(seed=3, gauc=gauc, metrics_log=metrics_log, checkpoints=tmp_path / "checkpoints")
    with pytest.raises(KeyboardInterrupt):
        train_ranker(clicks, 60, settings, replace(context, gauc=dies_in_the_second_epoch))
    resumed, _ = train_ranker(clicks, 60, settings, context)
    for name, value in uninterrupted.state_dict().items():
        assert torch.allclose(value.float(), resumed.state_dict()[name].float(), atol=1e-6), name
    lines = metrics_log.read()
    assert [line["done"] for line in lines if "note" not in line] == [1, 2, 3]
    assert [line["note"] for line in lines if "note" in line] == ["continues after epoch 1"]


def test_training_stops_when_validation_stops_improving(clicks):
    scores = iter([0.6, 0.7, 0.65, 0.66, 0.9])
    settings = RankerSettings(**SMALL | {"epochs": 5, "patience": 2})
    _, state = train_ranker(clicks, 60, settings, TrainingContext(seed=3, gauc=lambda *_: next(scores)))
    assert state.epoch == 4
    assert state.best_epoch == 1


def test_an_oracle_learns_from_held_out_events_and_never_from_evaluated_ones(clicks):
    """Item holdout: a third of the users are test users; the others' events on the last items are held out."""
    user = np.repeat(np.arange(120), 40)
    held = clicks.item_idx > 50
    split = np.where(user < 40, 2, np.where(user < 60, 1, np.where(held, 3, 0))).astype(np.int8)
    sequences = replace(clicks, split=split)
    plain, oracle = (small_ranker(sequences, splits=splits)[0] for splits in ((0,), (0, 3)))
    assert not plain.trained[51:].any()
    assert oracle.trained[51:].all()
    tested = split == 2
    other = replace(
        sequences,
        label=np.where(tested, 1 - sequences.label, sequences.label).astype(np.int8),
        item_idx=np.where(tested, 61 - sequences.item_idx, sequences.item_idx),
    )
    for name, value in small_ranker(other, splits=(0, 3))[0].state_dict().items():
        assert torch.equal(value, oracle.state_dict()[name]), name
