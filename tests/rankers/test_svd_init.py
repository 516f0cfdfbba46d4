import numpy as np

from coldstart.rankers.svd_init import svd_item_init


def events(factors, seed=0, users=300, items=80, each=40):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    item = rng.integers(1, items + 1, len(user))
    traits, likes = rng.normal(size=(items + 1, factors)), rng.normal(size=(users, factors))
    item_effect = rng.normal(size=items + 1)
    logit = 2 * np.sum(likes[user] * traits[item], 1) + item_effect[item]
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-logit))).astype(float)
    return user, item, label, traits, item_effect


def test_about_one_column_per_true_factor_is_filled():
    for factors in (0, 2):
        user, item, label, *_ = events(factors)
        rows = svd_item_init(user, item, label, vocab_size=81, width=8, seed=0)
        filled = np.flatnonzero(rows.any(0))
        assert 1 + factors <= len(filled) <= 2 + factors
        assert filled.tolist() == list(range(len(filled)))


def test_columns_span_item_effect_and_true_factors():
    user, item, label, traits, item_effect = events(2)
    rows = svd_item_init(user, item, label, vocab_size=81, width=8, seed=0)
    design = np.c_[rows[1:, :3], np.ones(80)]
    for truth in (item_effect[1:], traits[1:, 0], traits[1:, 1]):
        left = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
        assert left.var() < 0.35 * truth.var()


def test_an_item_without_events_gets_the_oov_row():
    user, item, label, *_ = events(2)
    rows = svd_item_init(user, item, label, vocab_size=90, width=8, seed=0)
    assert not rows[0].any()
    assert not rows[85].any()


def test_one_user_or_width_one_leaves_the_item_effect_alone():
    user, item, label, *_ = events(2)
    rows = svd_item_init(user, item, label, vocab_size=81, width=1, seed=0)
    assert rows.shape == (81, 1)
    one_user = svd_item_init(
        np.zeros(5, int), np.arange(1, 6), np.array([0, 1, 1, 0, 1.0]), vocab_size=6, width=4, seed=0
    )
    assert np.isfinite(one_user).all()
