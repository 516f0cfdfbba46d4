from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Pairs
from coldstart.data import pairs as module
from coldstart.data.pairs import CoClickPairs, mine_pairs, pairs_report
from coldstart.data.schema import TEST, TRAIN, VALID
from tests.events import Events

ITEMS = 30


def log(users=80, seed=0) -> Events:
    """Users of different length, with ties in time, repeated clicks and a last part that is not of training."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 25, users)
    user = np.repeat(np.arange(users), lengths)
    time = 1_000 + rng.integers(0, 400, len(user))
    order = np.lexsort((time, user))
    time = time[order]
    return Events(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_idx=np.minimum(rng.geometric(0.1, len(user)), ITEMS),
        label=(rng.random(len(user)) < 0.6).astype(np.int8),
        timestamp=time,
        split=np.where(time < 1_250, TRAIN, np.where(time < 1_320, VALID, TEST)).astype(np.int8),
    )


def clicks_of_users(events: Events, settings: Pairs) -> list[list[tuple[int, int]]]:
    """Per user with clicks, the last train clicks as (time, item)."""
    found = []
    for begin, end in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        own = [at for at in range(begin, end) if events.label[at] and events.split[at] == TRAIN]
        own = own[-settings.max_clicks_per_user :]
        if own:
            found.append([(int(events.timestamp[at]), int(events.item_idx[at])) for at in own])
    return found


def near(clicks, settings) -> dict[int, set[int]]:
    """Trigger -> targets of one user."""
    found = defaultdict(set)
    for (t, a), (s, b) in combinations(clicks, 2):
        if a != b and abs(t - s) <= settings.window_s:
            found[a].add(b)
            found[b].add(a)
    return found


def brute_force(events: Events, settings: Pairs) -> dict[int, list[tuple[int, float, int]]]:
    """Trigger -> its (target, score, users), best first, by the definitions and Python loops."""
    users = clicks_of_users(events, settings)
    mean = sum(1 / len(clicks) for clicks in users) / len(users)
    neighbors = [near(clicks, settings) for clicks in users]
    both, counts, item = defaultdict(float), defaultdict(int), defaultdict(float)
    for clicks, own in zip(users, neighbors, strict=True):
        for name in {name for _, name in clicks}:
            item[name] += 1 / len(clicks) / mean
        for a, targets in own.items():
            for b in targets:
                both[a, b] += 1 / len(clicks) / mean
                counts[a, b] += 1
    scores = {}
    if settings.score == "lift":
        s = settings.lift_smoothing
        scores = {(a, b): both[a, b] * len(users) / ((item[a] + s) * (item[b] + s)) for a, b in both}
    else:
        scores = defaultdict(float)
        for (u, near_u), (v, near_v) in combinations(enumerate(neighbors), 2):
            weight = 1 / np.sqrt(len(users[u]) * len(users[v]))
            for a in near_u.keys() & near_v.keys():
                common = near_u[a] & near_v[a]
                for b in common:
                    scores[a, b] += weight / (settings.swing_alpha + len(common) + 1)
    found = defaultdict(list)
    for (a, b), score in sorted(scores.items(), key=lambda entry: (-round(entry[1], 10), entry[0])):
        if len(found[a]) < settings.max_per_trigger:
            found[a].append((b, score, counts[a, b]))
    return found


def by_trigger(pairs: CoClickPairs) -> dict[int, list[tuple[int, float, int]]]:
    found = defaultdict(list)
    for a, *rest in zip(*(values.tolist() for values in vars(pairs).values()), strict=True):
        found[a].append(tuple(rest))
    return found


@pytest.mark.parametrize("score", ["lift", "swing"])
@pytest.mark.parametrize("options", [{}, {"window_s": 40}, {"max_per_trigger": 2}, {"max_clicks_per_user": 4}])
def test_pairs_equal_the_brute_force_reference(score, options):
    settings = Pairs(score=score, lift_smoothing=2, **options)
    found, expected = by_trigger(mine_pairs(log(), ITEMS, settings)), brute_force(log(), settings)
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for trigger, targets in expected.items():
        assert [row[0] for row in found[trigger]] == [row[0] for row in targets], trigger
        assert [row[2] for row in found[trigger]] == [row[2] for row in targets], trigger
        assert [row[1] for row in found[trigger]] == pytest.approx([row[1] for row in targets], rel=1e-5)


@pytest.mark.parametrize("score", ["lift", "swing"])
def test_partitions_change_nothing(score):
    settings = Pairs(score=score)
    whole, parts = (mine_pairs(log(), ITEMS, settings, co_clicks_per_partition=size) for size in (10**9, 60))
    for name, values in vars(whole).items():
        assert np.array_equal(values, getattr(parts, name)), name


def test_the_order_of_users_changes_nothing():
    events = log()
    order = np.random.default_rng(1).permutation(len(events.offsets) - 1)
    rows = np.concatenate([np.arange(events.offsets[u], events.offsets[u + 1]) for u in order])
    lengths = np.diff(events.offsets)[order]
    columns = {name: getattr(events, name)[rows] for name in ("item_idx", "label", "timestamp", "split")}
    moved = Events(offsets=np.concatenate([[0], np.cumsum(lengths)]), **columns)
    for name, values in vars(mine_pairs(events, ITEMS, Pairs())).items():
        assert np.array_equal(values, getattr(mine_pairs(moved, ITEMS, Pairs()), name)), name


def test_events_after_training_change_nothing():
    events = log()
    later = events.split != TRAIN
    rng = np.random.default_rng(2)
    other = replace(
        events,
        item_idx=np.where(later, rng.integers(1, ITEMS + 1, len(later)), events.item_idx),
        label=np.where(later, 1, events.label),
        timestamp=np.where(later, events.timestamp + 7, events.timestamp),
    )
    for name, values in vars(mine_pairs(events, ITEMS, Pairs())).items():
        assert np.array_equal(values, getattr(mine_pairs(other, ITEMS, Pairs()), name)), name


def test_a_popular_trigger_uses_a_fixed_sample_of_users_in_swing(monkeypatch):
    monkeypatch.setattr(module, "MAX_SWING_USERS", 6)
    settings = Pairs(score="swing")
    few, again = (mine_pairs(log(), ITEMS, settings, co_clicks_per_partition=size) for size in (10**9, 60))
    assert np.array_equal(few.score, again.score)
    assert few.users.max() <= 6 < mine_pairs(log(), ITEMS, Pairs()).users.max()


def test_pairs_survive_the_disk(tmp_path):
    pairs = mine_pairs(log(), ITEMS, Pairs())
    pairs.write(tmp_path)
    for name, values in vars(pairs).items():
        read = getattr(CoClickPairs.read(tmp_path), name)
        assert (read.dtype, read.tolist()) == (values.dtype, values.tolist())
    with pytest.raises(UserError, match=r"no pairs at .*run the mine_pairs stage first"):
        CoClickPairs.read(tmp_path / "none")


def test_the_report_counts_items_without_pairs():
    events = log()
    pairs = mine_pairs(events, ITEMS + 5, Pairs())
    counts = np.bincount(events.item_idx[events.split == TRAIN], minlength=ITEMS + 6)
    report = pairs_report(pairs, counts)
    reached = set(pairs.trigger.tolist()) | set(pairs.target.tolist())
    few = {item for item in range(1, ITEMS + 6) if 0 < counts[item] < 10}
    assert report["items_with_pairs"] == len(reached)
    assert report["share_without_pairs"]["cold"] == 1.0
    assert report["share_without_pairs"]["few"] == pytest.approx(len(few - reached) / len(few), abs=1e-5)
    assert report["share_without_pairs"]["warm"] == (0.0 if (counts >= 100).any() else None)
    assert (report["pairs"], report["triggers"]) == (len(pairs), len(np.unique(pairs.trigger)))


@pytest.mark.parametrize("change", [{"label": 0}, {"split": TEST}, {"item_idx": 3}])
def test_no_pairs_are_an_error_with_a_fix(change):
    events = log()
    columns = {name: np.full_like(getattr(events, name), value) for name, value in change.items()}
    with pytest.raises(UserError, match=r"within the pairs' window_s 604800 seconds; raise it"):
        mine_pairs(replace(events, **columns), ITEMS, Pairs())
