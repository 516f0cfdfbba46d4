import torch

from coldstart.modules.target_attention import TargetAttention
from coldstart.modules.time_gap import time_gap_buckets

ROWS, TARGETS, LENGTH, WIDTH, VALUE = 3, 4, 7, 6, 5


def case():
    rng = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    torch.manual_seed(1)
    attention = TargetAttention(WIDTH, VALUE)
    for weight in attention.parameters():
        torch.nn.init.normal_(weight)
    mask = torch.rand(ROWS, TARGETS, LENGTH, generator=rng) < 0.6
    mask[1, 2] = False
    now = torch.randint(1000, 2000, (ROWS, TARGETS), generator=rng)
    then = torch.randint(0, 1000, (ROWS, LENGTH), generator=rng)
    label = (torch.rand(ROWS, LENGTH, generator=rng) < 0.5).float()
    inputs = normal(ROWS, TARGETS, WIDTH), normal(ROWS, LENGTH, WIDTH), normal(ROWS, LENGTH, VALUE)
    return attention, inputs, label, time_gap_buckets(now, then, mask), mask


def test_it_equals_an_einsum_reference():
    attention, (query, key, value), label, time_gap, mask = case()
    clicked = label.long()
    keys = key + attention.label_key.weight[clicked]
    scores = torch.einsum("bta,bla->btl", query, keys) / WIDTH**0.5
    bias = attention.time_gap_bias.bias[0]
    scores = scores + torch.where(mask, bias[time_gap.clamp(max=31).long()], 0)
    null = torch.einsum("bta,a->bt", query, attention.null_key) / WIDTH**0.5
    exponents = torch.where(mask, scores.exp(), 0)
    weights = exponents / (exponents.sum(-1) + null.exp()).unsqueeze(-1)
    expected = torch.einsum("btl,blv->btv", weights, value * attention.label_gain.weight[clicked])
    found = attention(query, key, value, label, time_gap)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_target_without_history_gets_zeros_and_finite_gradients():
    attention, (query, key, value), label, time_gap, _ = case()
    key.requires_grad_()
    found = attention(query, key, value, label, time_gap)
    assert torch.equal(found[1, 2], torch.zeros(VALUE))
    assert (found[0].abs().sum(-1) > 0).all()
    found.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in (key, *attention.parameters()))


def test_a_new_attention_reads_clicked_events_only():
    _, (query, key, value), label, time_gap, _ = case()
    attention = TargetAttention(WIDTH, VALUE)
    changed = value + 9 * (1 - label).unsqueeze(-1)
    assert torch.equal(attention(query, key, value, label, time_gap), attention(query, key, changed, label, time_gap))
