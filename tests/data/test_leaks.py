"""Planted leaks are found, and honest features, however strong, are not: on made-up logs, several seeds each."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.data.features import Categorical, Coded, FeatureSchema, Numeric, TargetFeatures
from coldstart.data.leaks import audit
from coldstart.data.sequences import Sequences

ITEMS, USERS, EVENTS = 1000, 1500, 60_000
SEEDS = range(4)


@dataclass
class Log:
    """A platform on which items appear all the time, fade, and differ in appeal; users differ in habit and taste."""

    user: np.ndarray
    item: np.ndarray
    when: np.ndarray
    label: np.ndarray
    split: np.ndarray
    genre: np.ndarray
    price: np.ndarray
    appeal: np.ndarray
    habit: np.ndarray
    position: np.ndarray

    def rate(self, of, among, prior=0.0):
        """Click rate by item or user over some events; the mean rate where there are none."""
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
    appeal = rng.normal(0, 0.9, 12)[genre] + 0.5 * np.log(price) + rng.normal(0, 0.8, ITEMS + 1)
    habit, position = rng.normal(0, 0.7, USERS), rng.integers(0, 10, EVENTS)
    traits, tastes = rng.normal(size=(ITEMS + 1, 3)), 0.6 * rng.normal(size=(USERS, 3))
    odds = appeal[item] + habit[user] + np.sum(traits[item] * tastes[user], 1)
    odds -= 1.5 * (when - created[item]) + 0.3 * position
    label = (rng.random(EVENTS) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    split = np.where(when < 0.7, 0, np.where(when < 0.8, 1, 2)).astype(np.int8)
    order = np.argsort(user, kind="stable")
    by_user = (array[order] for array in (user, item, (when * 1e7).astype(np.int64), label, split))
    return Log(*by_user, genre, price, appeal, habit, position[order])


def judged(log: Log, owner: str, values: np.ndarray, kind: str = "numeric", trusted: tuple[str, ...] = ()):
    """The finding for one feature given by item index, user index or event."""
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
        else Coded(column.astype(int), none.numeric)
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(log.user, minlength=USERS))])
    features = TargetFeatures(schema, **parts)
    users = [str(user) for user in range(USERS)]
    sequences = Sequences(offsets, log.item, log.label, log.when, log.split, users, features=features)
    return audit(sequences, trusted=trusted)[f"{owner}.x"]


def honest(log: Log, seed: int) -> dict[str, tuple]:
    rng = np.random.default_rng(seed)
    train = log.split == 0
    counts = np.bincount(log.item, minlength=ITEMS + 1)
    clicks = np.bincount(log.user[train], log.label[train], minlength=USERS)
    return {
        "genre": ("item", log.genre + 1, "categorical"),
        "price": ("item", log.price),
        "true appeal": ("item", log.appeal),
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


def planted(log: Log, seed: int) -> dict[str, tuple]:
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
def test_no_honest_feature_is_called_a_leak(seed):
    log = draw(seed)
    for name, feature in honest(log, seed).items():
        assert judged(log, *feature).why() is None, name


@pytest.mark.parametrize("seed", SEEDS)
def test_every_planted_leak_is_found(seed):
    log = draw(seed)
    for name, feature in planted(log, seed).items():
        with pytest.raises(UserError, match=f"columns.{feature[0]}_features: 'x' leaks") as error:
            judged(log, *feature)
        assert "(limit" in str(error.value), name
        assert "trusted_features" in str(error.value)


def test_a_trusted_feature_is_let_through_with_its_figures():
    log = draw(0)
    finding = judged(log, "item", log.rate("item", np.ones(EVENTS, bool)), trusted=("x",))
    assert finding.why() is not None
    assert finding.chance > 0.3


def test_what_cannot_be_judged_is_said_to_be_undefined():
    log = draw(0)
    log.split[:] = 0
    finding = judged(log, "item", log.price)
    assert (finding.auc, finding.chance, finding.z) == (None, None, None)
    log.split[:] = 2
    log.label[:] = 0
    assert judged(log, "item", log.price).auc is None


def test_list_logs_with_one_click_each_are_no_leak():
    """Of ten items shown together one is clicked: labels of a user repel each other, whatever the feature."""
    rng = np.random.default_rng(0)
    log = draw(0)
    user = np.repeat(np.arange(USERS), EVENTS // USERS)
    log.user, log.item = user, rng.integers(1, ITEMS, len(user))
    lists = np.arange(len(user)) // 10
    log.when = lists * 60
    log.label = np.zeros(len(user), np.int8)
    log.label[np.arange(0, len(user), 10) + rng.integers(0, 10, len(user) // 10)] = 1
    log.split = np.where(np.arange(len(user)) % 40 < 20, 0, 2).astype(np.int8)
    assert judged(log, "user", rng.random(USERS)).why() is None
