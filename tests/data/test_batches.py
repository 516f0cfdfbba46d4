import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coldstart.data.batches import UserWindows, rank_request
from tests.events import Events


@st.composite
def event_logs(draw):
    """Logs with inactive users, equal timestamps and any pattern of splits; the item index is the position + 1."""
    lengths = draw(st.lists(st.integers(0, 14), min_size=1, max_size=6))
    total = sum(lengths)
    gaps = draw(st.lists(st.integers(0, 2), min_size=total, max_size=total))
    split = draw(st.lists(st.integers(0, 2), min_size=total, max_size=total))
    return Events(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_idx=np.arange(1, total + 1),
        label=np.arange(total) % 2,
        timestamp=np.concatenate([1000 + np.cumsum(gaps[a : a + n]) for a, n in zip_lengths(lengths)])
        if total
        else np.zeros(0, int),
        split=np.array(split, int),
    )


def zip_lengths(lengths):
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    return [(int(a), n) for a, n in zip(starts, lengths, strict=True) if n]


def expected_history(events, position, history):
    """The history of a serving request: the last `history` strictly earlier events of the user."""
    user = np.searchsorted(events.offsets, position, side="right") - 1
    own = range(events.offsets[user], events.offsets[user + 1])
    earlier = [p for p in own if events.timestamp[p] < events.timestamp[position]]
    return earlier[-history:]


@settings(max_examples=150, deadline=None)
@given(event_logs(), st.integers(1, 6), st.integers(1, 5), st.sets(st.integers(0, 2), min_size=1))
def test_each_requested_event_is_a_target_once_and_sees_its_exact_history(events, history, targets, splits):
    windows = UserWindows(events, history=history, splits=sorted(splits), targets=targets)
    seen = []
    for index in range(len(windows)):
        batch = windows.batch([index])
        for t in torch.nonzero(batch.weight[0]).flatten().tolist():
            position = int(batch.event_index[0, t])
            seen.append(position)
            assert batch.target_idx[0, t] == events.item_idx[position]
            assert batch.label[0, t] == events.label[position]
            history_mask = batch.history_mask[0, t]
            past = batch.history_idx[0][history_mask] - 1
            assert past.tolist() == expected_history(events, position, history)
            assert batch.history_label[0][history_mask].tolist() == events.label[past.numpy()].tolist()
            assert (batch.history_time[0][history_mask] < batch.target_time[0, t]).all()
            assert position not in past.tolist()
    assert sorted(seen) == np.flatnonzero(np.isin(events.split, sorted(splits))).tolist()
    assert windows.event_indices.tolist() == sorted(seen)


@settings(max_examples=60, deadline=None)
@given(event_logs(), st.integers(1, 4))
def test_padding_does_not_change_a_row(events, history):
    windows = UserWindows(events, history=history, splits=[0, 1], targets=3)
    if not len(windows):
        return
    together = windows.batch(np.arange(len(windows)))
    for index in range(len(windows)):
        alone = windows.batch([index])
        width, depth = alone.target_idx.shape[1], alone.history_idx.shape[1]
        assert torch.equal(together.weight[index, :width], alone.weight[0])
        assert not together.weight[index, width:].any()
        assert torch.equal(together.event_index[index, :width], alone.event_index[0])
        assert torch.equal(together.history_mask[index, :width, :depth], alone.history_mask[0])
        assert not together.history_mask[index, :, depth:].any()
        assert not together.history_mask[index, width:].any()


def long_log(users=7, events=50):
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, events, users)
    total = int(lengths.sum())
    return Events(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_idx=rng.integers(1, 30, total),
        label=rng.integers(0, 2, total),
        timestamp=np.concatenate([np.sort(rng.integers(0, 60, n)) for n in lengths]),
        split=np.zeros(total, int),
    )


@pytest.mark.parametrize("world", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_world_size(world):
    windows = UserWindows(long_log(), history=5, splits=[0], targets=4)
    reference = [
        set(batch.event_index[batch.weight > 0].tolist()) for batch, _ in windows.epoch(1, 2, windows_per_step=8)
    ]
    ranks = [list(windows.epoch(1, 2, windows_per_step=8, rank=r, world=world)) for r in range(world)]
    for step, rows in enumerate(reference):
        shares = [set(share[step][0].event_index[share[step][0].weight > 0].tolist()) for share in ranks]
        assert set().union(*shares) == rows
        assert sum(map(len, shares)) == len(rows) == ranks[0][step][1]
    assert set().union(*reference) == set(windows.event_indices.tolist())


def test_epochs_differ_and_a_seed_repeats_them():
    windows = UserWindows(long_log(), history=5, splits=[0], targets=4)
    first, again, other = (windows.epoch_order(1, epoch, windows_per_step=8) for epoch in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other))


@pytest.mark.parametrize("world", [1, 3])
def test_iter_eval_yields_every_target_once(world):
    windows = UserWindows(long_log(), history=5, splits=[0], targets=4)
    rows = [
        row
        for rank in range(world)
        for batch in windows.iter_eval(windows_per_step=8, rank=rank, world=world)
        for row in batch.event_index[batch.weight > 0].tolist()
    ]
    assert sorted(rows) == windows.event_indices.tolist()


def test_a_rank_without_windows_gets_a_row_of_weight_0():
    windows = UserWindows(long_log(), history=5, splits=[0], targets=4)
    batch = windows.batch([])
    assert batch.target_idx.shape[0] == 1
    assert not batch.weight.any()


@settings(max_examples=60, deadline=None)
@given(event_logs(), st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_request_has_the_same_history_as_the_offline_row(events, history, random):
    windows = UserWindows(events, history=history, splits=[0], targets=3)
    for index in range(len(windows)):
        batch = windows.batch([index])
        for t in torch.nonzero(batch.weight[0]).flatten().tolist():
            position = int(batch.event_index[0, t])
            user = np.searchsorted(events.offsets, position, side="right") - 1
            own = np.arange(events.offsets[user], events.offsets[user + 1])
            request = rank_request(
                events.item_idx[own],
                events.label[own],
                events.timestamp[own],
                [events.item_idx[position]],
                int(events.timestamp[position]),
                history=history,
            )
            history_mask = request.history_mask[0, 0]
            assert torch.equal(request.history_idx[0][history_mask], batch.history_idx[0][batch.history_mask[0, t]])
            assert torch.equal(request.history_label[0][history_mask], batch.history_label[0][batch.history_mask[0, t]])


def test_a_request_without_history_has_an_empty_mask():
    request = rank_request([], [], [], [4, 5], 100, history=3)
    assert request.target_idx.tolist() == [[4, 5]]
    assert not request.history_mask.any()


def test_a_request_sorts_history_and_ignores_the_future():
    request = rank_request([1, 2, 3, 4], [0, 1, 0, 1], [30, 10, 50, 20], [9], 40, history=2)
    assert request.history_idx[0][request.history_mask[0, 0]].tolist() == [4, 1]
