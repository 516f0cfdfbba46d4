import torch
import torch.nn.functional as F

from coldstart.rankers.age import age_buckets
from coldstart.rankers.attention import PastAttention


def test_weights_are_those_that_the_values_are_summed_with() -> None:
    torch.manual_seed(0)
    attention = PastAttention(8, 2)
    torch.nn.init.normal_(attention.recency.by_age)
    looking, events = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    label = torch.randint(0, 2, (3, 7)).float()
    times = torch.arange(7).expand(3, 7)
    visible = torch.rand(3, 5, 7) > 0.4
    visible[0, 0] = False
    age = age_buckets(torch.full((3, 5), 100), times, visible)
    with torch.inference_mode():
        weights = attention.weights(looking, events, label, age)
        value = attention._split(attention.value(events) + attention.label(label.long()).chunk(2, dim=-1)[1])
        expected = (weights @ F.pad(value, (0, 0, 1, 0))).transpose(1, 2).flatten(2)
        assert torch.allclose(attention(looking, events, label, age), expected, atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 5))
    assert (weights[..., 1:] * ~visible[:, None]).abs().max() == 0
    assert weights[0, :, 0, 0].tolist() == [1.0, 1.0]
