import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coldstart.alignment.contrastive import Targets, info_nce
from coldstart.alignment.negatives import NegativeSampler
from coldstart.config.recipe import Negatives

ITEMS = np.arange(1, 41)
EVENTS = np.concatenate([[0], np.arange(1, 41) ** 2])
BATCH = np.array([4, 9, 30, 2])


def sampler(**settings: object) -> NegativeSampler:
    return NegativeSampler(Negatives.model_validate(settings), ITEMS, EVENTS, batch=4, seed=3)


def test_by_default_items_are_told_from_their_batch():
    np.testing.assert_array_equal(sampler().candidates(0, BATCH), BATCH)


def test_all_takes_every_item_once():
    np.testing.assert_array_equal(sampler(beside="all").candidates(5, BATCH), ITEMS)


def test_draws_depend_on_the_step_alone_and_stand_beside_the_batch():
    one = sampler(beside=16)
    drawn = one.candidates(7, BATCH)
    np.testing.assert_array_equal(drawn[:4], BATCH)
    assert len(drawn) == 20
    assert np.isin(drawn, ITEMS).all()
    np.testing.assert_array_equal(sampler(beside=16).candidates(7, BATCH), drawn)
    assert (one.candidates(8, BATCH) != drawn).any()


def test_popular_items_are_drawn_as_often_as_log_q_says():
    one = sampler(beside=50, popularity=1.0, log_q=True)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([one.candidates(step, rng.choice(ITEMS, 4, replace=False)) for step in range(4000)])
    measured = np.bincount(drawn, minlength=41)[1:] / 4000
    np.testing.assert_allclose(measured, np.exp(one.log_q[1:]), rtol=0.15, atol=0.02)


def test_correction_turns_popular_draws_into_the_exact_softmax():
    """The gradient over many draws comes to that of the softmax over all items; without the correction it does not."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(41, 8, generator=generator), dim=-1)
    groups = torch.arange(41)
    item = np.array([20])

    def gradient(one: NegativeSampler, step: int) -> torch.Tensor:
        coarse = F.normalize(torch.ones(1, 8), dim=-1).requires_grad_()
        others = one.candidates(step, item)
        q = None if one.log_q is None else torch.as_tensor(one.log_q, dtype=torch.float32)
        mine, theirs = (Targets(rows[i], groups[i], None if q is None else q[i]) for i in (item, others))
        info_nce(coarse, mine, theirs, temperature=0.5).sum().backward()
        return coarse.grad

    exact = gradient(sampler(beside="all"), 0)
    off = {}
    for log_q in (False, True):
        one = NegativeSampler(Negatives(beside=400, popularity=1.0, log_q=log_q), ITEMS, EVENTS, batch=1, seed=3)
        mean = torch.stack([gradient(one, step) for step in range(200)]).mean(0)
        off[log_q] = (mean - exact).norm() / exact.norm()
    assert off[True] < 0.1
    assert off[False] > 2 * off[True]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"popularity": 0.5}, "popularity 0.5 has no effect with beside 0"),
        ({"beside": "all", "popularity": 0.5}, "no effect with beside all"),
        ({"beside": 8, "log_q": True}, "log_q has no effect with popularity 0"),
        ({"beside": -1}, "beside"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, object], told: str):
    with pytest.raises(ValueError, match=told):
        Negatives.model_validate(settings)
