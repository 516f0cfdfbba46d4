import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coldstart.config.recipe import Negatives
from coldstart.modules.info_nce import Targets, info_nce
from coldstart.modules.negatives import NegativeSampler

ITEMS = np.arange(1, 41)
EVENTS = np.concatenate([[0], np.arange(1, 41) ** 2])
BATCH = np.array([4, 9, 30, 2])


def sampler(**settings: object) -> NegativeSampler:
    return NegativeSampler(Negatives.model_validate(settings), ITEMS, EVENTS, batch=4, seed=3)


def test_by_default_the_candidates_are_the_batch():
    np.testing.assert_array_equal(sampler().candidates(0, BATCH), BATCH)


def test_all_takes_every_item_once():
    np.testing.assert_array_equal(sampler(num_sampled="all").candidates(5, BATCH), ITEMS)


def test_draws_depend_on_the_step_alone_and_follow_the_batch():
    one = sampler(num_sampled=16)
    drawn = one.candidates(7, BATCH)
    np.testing.assert_array_equal(drawn[:4], BATCH)
    assert len(drawn) == 20
    assert np.isin(drawn, ITEMS).all()
    np.testing.assert_array_equal(sampler(num_sampled=16).candidates(7, BATCH), drawn)
    assert (one.candidates(8, BATCH) != drawn).any()


def test_items_are_drawn_as_often_as_log_q_predicts():
    one = sampler(num_sampled=50, popularity=1.0, log_q=True)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([one.candidates(step, rng.choice(ITEMS, 4, replace=False)) for step in range(4000)])
    measured = np.bincount(drawn, minlength=41)[1:] / 4000
    np.testing.assert_allclose(measured, np.exp(one.log_q[1:]), rtol=0.15, atol=0.02)


def test_the_correction_makes_popular_draws_match_the_exact_softmax():
    """The mean gradient of many draws equals that of the full softmax; without the correction it does not."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(41, 8, generator=generator), dim=-1)
    groups = torch.arange(41)
    item = np.array([20])

    def gradient(one: NegativeSampler, step: int) -> torch.Tensor:
        coarse = F.normalize(torch.ones(1, 8), dim=-1).requires_grad_()
        others = one.candidates(step, item)
        q = None if one.log_q is None else torch.as_tensor(one.log_q, dtype=torch.float32)
        own, candidates = (Targets(rows[i], groups[i], None if q is None else q[i]) for i in (item, others))
        info_nce(coarse, own, candidates, temperature=0.5).sum().backward()
        return coarse.grad

    exact = gradient(sampler(num_sampled="all"), 0)
    errors = {}
    for log_q in (False, True):
        one = NegativeSampler(Negatives(num_sampled=400, popularity=1.0, log_q=log_q), ITEMS, EVENTS, batch=1, seed=3)
        mean = torch.stack([gradient(one, step) for step in range(200)]).mean(0)
        errors[log_q] = (mean - exact).norm() / exact.norm()
    assert errors[True] < 0.1
    assert errors[False] > 2 * errors[True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popularity": 0.5}, "popularity 0.5 has no effect with num_sampled 0"),
        ({"num_sampled": "all", "popularity": 0.5}, "no effect with num_sampled all"),
        ({"num_sampled": 8, "log_q": True}, "log_q has no effect with popularity 0"),
        ({"num_sampled": -1}, "num_sampled"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        Negatives.model_validate(settings)
