import math

import torch

from coldstart.modules.time_gap import BUCKETS, MASKED, TimeGapBias, time_gap_buckets


def test_buckets_are_whole_log2_seconds():
    gaps = [1, 2, 3, 4, 1023, 1024, 86_400, 40_000_000]
    now = torch.tensor([[1_700_000_000]])
    then = now - torch.tensor([gaps])
    found = time_gap_buckets(now, then, torch.ones(1, 1, len(gaps), dtype=torch.bool))
    assert found.flatten().tolist() == [math.floor(math.log2(gap)) + 1 for gap in gaps]


def test_a_bucket_does_not_depend_on_other_rows_or_on_padding():
    now, then = torch.tensor([[1_700_000_000, 1_700_000_500]]), torch.tensor([[1_699_000_000, 1_700_000_400, 0]])
    mask = torch.tensor([[[True, False, False], [True, True, False]]])
    found = time_gap_buckets(now, then, mask)
    alone = time_gap_buckets(now[:, :1], then, mask[:, :1])
    assert torch.equal(found[:, :1], alone)
    assert found[~mask].eq(MASKED).all()
    assert found[mask].lt(BUCKETS).all()


def test_the_bias_and_its_gradient_equal_plain_indexing():
    torch.manual_seed(0)
    bias = TimeGapBias(3, masked_value=-2.0)
    torch.nn.init.normal_(bias.bias)
    time_gap = torch.randint(0, MASKED + 1, (2, 4, 5), dtype=torch.int32)
    weight = torch.randn(3, 2, 4, 5)
    plain = bias.bias.detach().clone().requires_grad_()
    expected = torch.nn.functional.pad(plain, (0, 1), value=-2.0)[:, time_gap.long()]
    assert torch.equal(bias(time_gap), expected)
    (bias(time_gap) * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.allclose(bias.bias.grad, plain.grad, atol=1e-5)
