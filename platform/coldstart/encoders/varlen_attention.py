"""Variable-length attention for vision towers that concatenate the patches of all images in one row.

Qwen's towers attend within segments, which are images or windows. Without a flash-attention package transformers calls
one kernel per segment: at 448 pixels 16 windows an image in each of 28 layers of Qwen2.5-VL-3B, so 14,000 calls for 32
images. Here all segments of one length share a call.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

# Transformers passes the segment boundaries, instead of splitting, only if "flash" is part of the name.
ATTENTION_NAME = "coldstart_flash_varlen"


def attend_by_length(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within segments.

    Args:
        module: Unused; part of transformers' signature.
        query: `[1, heads, patches, width]`.
        key: `[1, heads, patches, width]`.
        value: `[1, heads, patches, width]`.
        cu_seq_lens_q: `[segments + 1]` boundaries of the segments.
        scaling: Factor of the scores.
        dropout: Dropout probability of the attention weights.

    Returns:
        `[1, patches, heads, width]`, and None instead of the weights.
    """
    del module
    starts_by_length: dict[int, list[int]] = {}
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        starts_by_length.setdefault(end - start, []).append(start)
    states = query[0], key[0], value[0]
    if len(starts_by_length) == 1:
        (length,) = starts_by_length
        return _attend(*states, length=length, scaling=scaling, dropout=dropout).unsqueeze(0), None
    outputs, indices = [], []
    for length, starts in starts_by_length.items():
        first = torch.tensor(starts, device=query.device)
        index = (first[:, None] + torch.arange(length, device=query.device)).flatten()
        selected = [tensor.index_select(1, index) for tensor in states]
        outputs.append(_attend(*selected, length=length, scaling=scaling, dropout=dropout))
        indices.append(index)
    order = torch.cat(indices).argsort()
    return torch.cat(outputs).index_select(0, order).unsqueeze(0), None


def _attend(query: Tensor, key: Tensor, value: Tensor, *, length: int, scaling: float | None, dropout: float) -> Tensor:
    """Maps queries, keys and values `[heads, segments * length, width]` to `[segments * length, heads, width]`."""
    heads, _, width = query.shape
    query, key, value = (states.view(heads, -1, length, width).transpose(0, 1) for states in (query, key, value))
    output = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).flatten(0, 1)


def use_varlen_attention(mllm: Any) -> None:
    """Switches the vision tower of an MLLM to this attention, if its family attends segment by segment."""
    tower = mllm.get_encoder("image")
    if mllm.config.model_type in ("qwen2_5_vl", "qwen3_vl") and tower.config._attn_implementation == "sdpa":
        tower.config._attn_implementation = ATTENTION_NAME


AttentionInterface.register(ATTENTION_NAME, attend_by_length)
