import numpy as np

from coldstart.rankers.warm_start import taste_rows


def events(tastes, seed=0, users=300, items=80, each=40):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    item = rng.integers(1, items + 1, len(user))
    traits, likes = rng.normal(size=(items + 1, tastes)), rng.normal(size=(users, tastes))
    appeal = rng.normal(size=items + 1)
    logit = 2 * np.sum(likes[user] * traits[item], 1) + appeal[item]
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-logit))).astype(float)
    return user, item, label, traits, appeal


def test_about_as_many_columns_are_filled_as_there_are_tastes():
    for tastes in (0, 2):
        user, item, label, *_ = events(tastes)
        rows = taste_rows(user, item, label, vocabulary=81, width=8, seed=0)
        filled = np.flatnonzero(rows.any(0))
        assert 1 + tastes <= len(filled) <= 2 + tastes
        assert filled.tolist() == list(range(len(filled)))


def test_columns_span_appeal_and_tastes():
    user, item, label, traits, appeal = events(2)
    rows = taste_rows(user, item, label, vocabulary=81, width=8, seed=0)
    known = np.c_[rows[1:, :3], np.ones(80)]
    for truth in (appeal[1:], traits[1:, 0], traits[1:, 1]):
        left = truth - known @ np.linalg.lstsq(known, truth, rcond=None)[0]
        assert left.var() < 0.35 * truth.var()


def test_an_item_without_events_starts_as_the_oov_row():
    user, item, label, *_ = events(2)
    rows = taste_rows(user, item, label, vocabulary=90, width=8, seed=0)
    assert not rows[0].any()
    assert not rows[85].any()


def test_one_user_or_a_width_of_one_leaves_appeal_only():
    user, item, label, *_ = events(2)
    rows = taste_rows(user, item, label, vocabulary=81, width=1, seed=0)
    assert rows.shape == (81, 1)
    lonely = taste_rows(np.zeros(5, int), np.arange(1, 6), np.array([0, 1, 1, 0, 1.0]), vocabulary=6, width=4, seed=0)
    assert np.isfinite(lonely).all()
