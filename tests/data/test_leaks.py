"""Injected leaks are found, and strong honest features are not reported: on simulated logs, with several seeds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.data.features import Categorical, EncodedFeatures, FeatureSchema, Numeric, TargetFeatures
from coldstart.data.leaks import audit
from coldstart.data.sequences import Sequences

ITEMS, USERS, EVENTS = 1000, 1500, 60_000
SEEDS = range(4)


@dataclass
class Log:
    """A simulated platform: items appear all the time, lose interest, and differ in item effect; users differ in click
    rate and preferences."""

    user: np.ndarray
    item: np.ndarray
    when: np.ndarray
    label: np.ndarray
    split: np.ndarray
    genre: np.ndarray
    price: np.ndarray
    item_effect: np.ndarray
    habit: np.ndarray
    position: np.ndarray

    def rate(self, of, among, prior=0.0):
        """Click rate by item or user over some events; the mean rate for those without events."""
        unit, size = (self.item, ITEMS + 1) if of == "item" else (self.user, USERS)
        count = np.bincount(unit[among], minlength=size)
        clicks = np.bincount(unit[among], self.label[among], minlength=size)
        mean = self.label[among].mean()
        return np.where(count > 0, (clicks + prior * mean) / np.maximum(count + prior, 1e-9), mean)


def draw(seed: int) -> Log:
    rng = np.random.default_rng(seed)
    created = np.sort(rng.random(ITEMS + 1))
    when = np.sort(rng.random(EVENTS))
    popularity = rng.lognormal(0, 1, ITEMS + 1)
    item = np.empty(EVENTS, np.int64)
    for part in np.array_split(np.arange(EVENTS), 200):
        now = when[part[0]]
        shown = max(int(np.searchsorted(created, now)), 10)
        weight = popularity[:shown] * (0.05 + np.exp(-8 * (now - created[:shown])))
        item[part] = rng.choice(shown, len(part), p=weight / weight.sum())
    activity = rng.lognormal(0, 0.7, USERS)
    user = rng.choice(USERS, EVENTS, p=activity / activity.sum())
    genre, price = rng.integers(0, 12, ITEMS + 1), rng.lognormal(0, 1, ITEMS + 1)
    item_effect = rng.normal(0, 0.9, 12)[genre] + 0.5 * np.log(price) + rng.normal(0, 0.8, ITEMS + 1)
    habit, position = rng.normal(0, 0.7, USERS), rng.integers(0, 10, EVENTS)
    traits, tastes = rng.normal(size=(ITEMS + 1, 3)), 0.6 * rng.normal(size=(USERS, 3))
    odds = item_effect[item] + habit[user] + np.sum(traits[item] * tastes[user], 1)
    odds -= 1.5 * (when - created[item]) + 0.3 * position
    label = (rng.random(EVENTS) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    split = np.where(when < 0.7, 0, np.where(when < 0.8, 1, 2)).astype(np.int8)
    order = np.argsort(user, kind="stable")
    by_user = (array[order] for array in (user, item, (when * 1e7).astype(np.int64), label, split))
    return Log(*by_user, genre, price, item_effect, habit, position[order])


def check_of(log: Log, owner: str, values: np.ndarray, kind: str = "numeric", allowlist: tuple[str, ...] = ()):
    """The audit of one feature, whose values are by item index, user index or event."""
    if kind == "numeric":
        schema = FeatureSchema(numeric=(Numeric(owner=owner, name="x", mean=0, scale=1),))
    else:
        names = tuple(str(value) for value in range(int(values.max())))
        schema = FeatureSchema(categorical=(Categorical(owner=owner, name="x", values=names),))
    sizes = {"item": ITEMS + 1, "user": USERS, "context": EVENTS}
    parts = {name: FeatureSchema().unknown(size) for name, size in sizes.items()}
    column = values[:, None]
    none = parts[owner]
    parts[owner] = (
        replace(none, numeric=column.astype(np.float32))
        if kind == "numeric"
        else EncodedFeatures(column.astype(int), none.numeric)
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(log.user, minlength=USERS))])
    features = TargetFeatures(schema, **parts)
    users = [str(user) for user in range(USERS)]
    sequences = Sequences(offsets, log.item, log.label, log.when, log.split, users, features=features)
    return audit(sequences, allowlist=allowlist)[f"{owner}.x"]


def honest(log: Log, seed: int) -> dict[str, tuple]:
    rng = np.random.default_rng(seed)
    train = log.split == 0
    counts = np.bincount(log.item, minlength=ITEMS + 1)
    clicks = np.bincount(log.user[train], log.label[train], minlength=USERS)
    return {
        "genre": ("item", log.genre + 1, "categorical"),
        "price": ("item", log.price),
        "true item effect": ("item", log.item_effect),
        "brand of few items": ("item", rng.integers(1, 400, ITEMS + 1), "categorical"),
        "popularity": ("item", np.log1p(counts)),
        "click rate in train": ("item", log.rate("item", train)),
        "smoothed click rate in train": ("item", log.rate("item", train, 10)),
        "click rate of the user in train": ("user", log.rate("user", train)),
        "clicks of the user in train": ("user", clicks),
        "true habit": ("user", log.habit),
        "country": ("user", rng.integers(1, 9, USERS), "categorical"),
        "position": ("context", log.position + 1, "categorical"),
        "position as a number": ("context", log.position),
        "click rate in train, in the log": ("context", log.rate("item", train)[log.item]),
        "device": ("context", rng.integers(1, 4, EVENTS), "categorical"),
    }


def leaking(log: Log, seed: int) -> dict[str, tuple]:
    rng = np.random.default_rng(seed)
    always, later = np.ones(EVENTS, bool), log.split > 0
    rate, habit = log.rate("item", always), log.rate("user", always)
    flipped = np.where(rng.random(EVENTS) < 0.05, 1 - log.label, log.label)
    ahead = np.append(log.label[1:], 0)
    return {
        "click rate": ("item", rate),
        "smoothed click rate": ("item", log.rate("item", always, 5)),
        "log click rate": ("item", np.log(rate + 0.01)),
        "noisy click rate": ("item", rate + rng.normal(0, 0.03, ITEMS + 1)),
        "stars": ("item", np.digitize(log.rate("item", always, 2), np.linspace(0.1, 0.8, 9)) + 1, "categorical"),
        "click rate in test": ("item", log.rate("item", later)),
        "click rate of the user": ("user", habit),
        "click rate of the user in test": ("user", log.rate("user", later)),
        "click rate in the log": ("context", rate[log.item]),
        "click rate of the user in the log": ("context", habit[log.user]),
        "copy of the label": ("context", log.label + 1, "categorical"),
        "copy of the label as a number": ("context", log.label),
        "nearly a copy": ("context", flipped),
        "seconds after the click": ("context", np.where(log.label, rng.lognormal(3, 1, EVENTS), rng.random(EVENTS))),
        "the next label": ("context", ahead),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_no_honest_feature_is_a_leak(seed):
    log = draw(seed)
    for name, feature in honest(log, seed).items():
        assert check_of(log, *feature).problem() is None, name


@pytest.mark.parametrize("seed", SEEDS)
def test_every_injected_leak_is_found(seed):
    log = draw(seed)
    for name, feature in leaking(log, seed).items():
        with pytest.raises(UserError, match=f"columns.{feature[0]}_features: 'x' leaks") as error:
            check_of(log, *feature)
        assert "(limit" in str(error.value), name
        assert "leak_allowlist" in str(error.value)


def test_a_feature_on_the_allowlist_is_kept_and_measured():
    log = draw(0)
    check = check_of(log, "item", log.rate("item", np.ones(EVENTS, bool)), allowlist=("x",))
    assert check.problem() is not None
    assert check.chance > 0.3


def test_values_that_cannot_be_computed_are_none():
    log = draw(0)
    log.split[:] = 0
    check = check_of(log, "item", log.price)
    assert (check.auc, check.chance, check.z) == (None, None, None)
    log.split[:] = 2
    log.label[:] = 0
    assert check_of(log, "item", log.price).auc is None


def test_lists_with_one_click_each_are_not_a_leak():
    """One of ten items shown together is clicked: labels of a user are negatively correlated for any feature."""
    rng = np.random.default_rng(0)
    log = draw(0)
    user = np.repeat(np.arange(USERS), EVENTS // USERS)
    log.user, log.item = user, rng.integers(1, ITEMS, len(user))
    lists = np.arange(len(user)) // 10
    log.when = lists * 60
    log.label = np.zeros(len(user), np.int8)
    log.label[np.arange(0, len(user), 10) + rng.integers(0, 10, len(user) // 10)] = 1
    log.split = np.where(np.arange(len(user)) % 40 < 20, 0, 2).astype(np.int8)
    assert check_of(log, "user", rng.random(USERS)).problem() is None
