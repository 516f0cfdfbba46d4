import torch
import torch.nn.functional as F

from coldstart.modules.history_attention import HistoryAttention
from coldstart.modules.time_gap import time_gap_buckets


def test_forward_sums_the_values_with_these_weights() -> None:
    torch.manual_seed(0)
    attention = HistoryAttention(8, 2)
    torch.nn.init.normal_(attention.time_gap_bias.bias)
    query, events = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    label = torch.randint(0, 2, (3, 7)).float()
    times = torch.arange(7).expand(3, 7)
    history_mask = torch.rand(3, 5, 7) > 0.4
    history_mask[0, 0] = False
    time_gap = time_gap_buckets(torch.full((3, 5), 100), times, history_mask)
    with torch.inference_mode():
        weights = attention.weights(query, events, label, time_gap)
        value = attention._split(
            attention.value_proj(events) + attention.label_embedding(label.long()).chunk(2, dim=-1)[1]
        )
        expected = (weights @ F.pad(value, (0, 0, 1, 0))).transpose(1, 2).flatten(2)
        assert torch.allclose(attention(query, events, label, time_gap), expected, atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 5))
    assert (weights[..., 1:] * ~history_mask[:, None]).abs().max() == 0
    assert weights[0, :, 0, 0].tolist() == [1.0, 1.0]
