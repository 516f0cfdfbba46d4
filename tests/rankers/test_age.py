import math

import torch

from coldstart.rankers.age import BUCKETS, UNSEEN, Recency, age_buckets


def test_buckets_are_whole_log2_seconds():
    ages = [1, 2, 3, 4, 1023, 1024, 86_400, 40_000_000]
    now = torch.tensor([[1_700_000_000]])
    then = now - torch.tensor([ages])
    found = age_buckets(now, then, torch.ones(1, 1, len(ages), dtype=torch.bool))
    assert found.flatten().tolist() == [math.floor(math.log2(age)) + 1 for age in ages]


def test_an_age_does_not_depend_on_other_rows_or_on_padding():
    now, then = torch.tensor([[1_700_000_000, 1_700_000_500]]), torch.tensor([[1_699_000_000, 1_700_000_400, 0]])
    seen = torch.tensor([[[True, False, False], [True, True, False]]])
    found = age_buckets(now, then, seen)
    alone = age_buckets(now[:, :1], then, seen[:, :1])
    assert torch.equal(found[:, :1], alone)
    assert found[~seen].eq(UNSEEN).all()
    assert found[seen].lt(BUCKETS).all()


def test_recency_is_a_lookup_and_so_is_its_gradient():
    torch.manual_seed(0)
    recency = Recency(3, unseen=-2.0)
    torch.nn.init.normal_(recency.by_age)
    age = torch.randint(0, UNSEEN + 1, (2, 4, 5), dtype=torch.int32)
    pull = torch.randn(3, 2, 4, 5)
    plain = recency.by_age.detach().clone().requires_grad_()
    expected = torch.nn.functional.pad(plain, (0, 1), value=-2.0)[:, age.long()]
    assert torch.equal(recency(age), expected)
    (recency(age) * pull).sum().backward()
    (expected * pull).sum().backward()
    assert torch.allclose(recency.by_age.grad, plain.grad, atol=1e-5)
