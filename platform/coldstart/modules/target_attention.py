"""Target attention with separate keys and values, so that the weights of one space can read out another.

Legend: `B` rows, `T` targets, `L` history, `a` width of queries and keys, `v` width of values.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.modules.time_gap import TimeGapBias


class TargetAttention(nn.Module):
    """`sum_j softmax_j(q . k_j / sqrt(a) + bias_j) value_j` over the events that a target may see.

    As in DIN, keys and values depend on the click label; here a skipped event starts with value 0, so attention starts
    on clicks alone and learns what skips say. A null key with value 0 takes the weight of an empty or irrelevant
    history. Label, time gap and null key are ours **[I]**.

    Args:
        width: `a`.
        value_width: `v`.
    """

    def __init__(self, width: int, value_width: int) -> None:
        super().__init__()
        self.label_key = nn.Embedding(2, width)
        self.label_gain = nn.Embedding(2, value_width)
        self.time_gap_bias = TimeGapBias(1, masked_value=float("-inf"))
        self.null_key = nn.Parameter(torch.zeros(width))
        nn.init.zeros_(self.label_key.weight)
        with torch.no_grad():
            self.label_gain.weight.copy_(torch.tensor([0.0, 1.0])[:, None].expand(2, value_width))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, label: Tensor, time_gap: Tensor) -> Tensor:
        """Attention output `[B, T, v]`; zeros for a target that sees no event.

        Args:
            query: [B, T, a].
            key: [B, L, a].
            value: [B, L, v].
            label: [B, L] clicked (1) or not (0).
            time_gap: [B, T, L] from `time_gap_buckets`, which also has the mask.
        """
        clicked = label.long()
        key = key + self.label_key(clicked)
        key = torch.cat([self.null_key.expand(len(key), 1, -1), key], dim=1)
        value = F.pad(value * self.label_gain(clicked), (0, 0, 1, 0))
        bias = F.pad(self.time_gap_bias(time_gap)[0], (1, 0)).to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
