"""Attention of vision towers that keep all patches in one row, cut into pictures or windows.

Qwen's towers attend within segments, and without a flash-attention package transformers calls a kernel for each of
them: at 448 pixels 16 windows a picture in each of 28 layers of Qwen2.5-VL-3B, 14,000 calls for 32 pictures. Segments
of one length are one call here.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

# Transformers hands segments over, instead of cutting, to what has this word in its name.
NAME = "coldstart_flash_segments"


def attend_by_length(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within segments.

    Args:
        module: Not used; transformers gives it to every attention.
        query: `[1, heads, patches, width]`.
        key: The same.
        value: The same.
        attention_mask: Not used either.
        cu_seq_lens_q: `[segments + 1]` where they begin and end.
        scaling: Of the scores.
        dropout: Share of weights that are dropped.

    Returns:
        `[1, patches, heads, width]`, and no weights.
    """
    del module, attention_mask
    segments: dict[int, list[int]] = {}
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        segments.setdefault(end - start, []).append(start)
    whole = query[0], key[0], value[0]
    if len(segments) == 1:
        (length,) = segments
        return _attend(*whole, length=length, scaling=scaling, dropout=dropout).unsqueeze(0), None
    parts, places = [], []
    for length, starts in segments.items():
        first = torch.tensor(starts, device=query.device)
        place = (first[:, None] + torch.arange(length, device=query.device)).flatten()
        chosen = [states.index_select(1, place) for states in whole]
        parts.append(_attend(*chosen, length=length, scaling=scaling, dropout=dropout))
        places.append(place)
    back = torch.cat(places).argsort()
    return torch.cat(parts).index_select(0, back).unsqueeze(0), None


def _attend(query: Tensor, key: Tensor, value: Tensor, *, length: int, scaling: float | None, dropout: float) -> Tensor:
    """Queries, keys and values `[heads, segments * length, width]` -> `[segments * length, heads, width]`."""
    heads, _, width = query.shape
    query, key, value = (states.view(heads, -1, length, width).transpose(0, 1) for states in (query, key, value))
    seen = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return seen.transpose(1, 2).flatten(0, 1)


def attend_in_segments(mllm: Any) -> None:
    """Lets the vision tower of an MLLM attend so, if it is one that cuts and would do it segment by segment."""
    tower = mllm.get_encoder("image")
    if mllm.config.model_type in ("qwen2_5_vl", "qwen3_vl") and tower.config._attn_implementation == "sdpa":
        tower.config._attn_implementation = NAME


AttentionInterface.register(NAME, attend_by_length)
