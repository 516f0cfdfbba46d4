"""Pools token states into one vector per item, and projects that vector into the ID space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LastPooling(nn.Module):
    """The state of `[EMB]`, the last attended token.

    Every pooling normalizes the states first, so that one pooling serves all layers.
    """

    def __init__(self, hidden: int) -> None:
        """`hidden` is D."""
        super().__init__()

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states `[B, length, D]` and attention mask `[B, length]` -> `[B, D]`."""
        return _emb(F.layer_norm(states, states.shape[-1:]), mask)


class MeanPooling(nn.Module):
    """The mean over attended tokens."""

    def __init__(self, hidden: int) -> None:
        """`hidden` is D."""
        super().__init__()

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states `[B, length, D]` and attention mask `[B, length]` -> `[B, D]`."""
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (F.layer_norm(states, states.shape[-1:]) * weights).sum(dim=1) / weights.sum(dim=1)


class AttentionPooling(nn.Module):
    """Attention-based token aggregation that includes `[EMB]` (IDProxy, section 3.2).

    The query is the state of `[EMB]` through a learned linear map; the attention output is added to that state.
    """

    def __init__(self, hidden: int) -> None:
        """`hidden` is D."""
        super().__init__()
        self.query = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states `[B, length, D]` and attention mask `[B, length]` -> `[B, D]`."""
        states = F.layer_norm(states, states.shape[-1:])
        emb = _emb(states, mask)
        scores = torch.einsum("bd,btd->bt", self.query(emb), states).float() * states.shape[-1] ** -0.5
        weights = scores.masked_fill(mask == 0, float("-inf")).softmax(dim=1).to(states.dtype)
        return emb + torch.einsum("bt,btd->bd", weights, states)


POOLINGS = {"attention": AttentionPooling, "last": LastPooling, "mean": MeanPooling}


class Projection(nn.Module):
    """MLP from `[B, D]` to `[B, d]` of unit norm (float32)."""

    def __init__(self, hidden: int, width: int) -> None:
        """`hidden` is D, `width` is d."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    @torch.no_grad()
    def init_linear(self, center: Tensor, axes: Tensor) -> None:
        """Makes the MLP the linear map `axes (x - center)`, exactly: `gelu(x) - gelu(-x) = x`.

        Args:
            center: [D].
            axes: [d, D].
        """
        first, _, last = self.layers
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        both = torch.cat([axes, -axes])
        first.weight.copy_(both)
        first.bias.copy_(-both @ center)
        identity = torch.eye(len(axes))
        last.weight.copy_(torch.cat([identity, -identity], 1))
        last.bias.zero_()

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled states `[B, D]` -> coarse proxies `[B, d]`."""
        return F.normalize(self.layers(pooled).float(), dim=-1)


def _emb(states: Tensor, mask: Tensor) -> Tensor:
    """The state `[B, D]` of each row's last attended token."""
    last = (mask * torch.arange(states.shape[1], device=states.device)).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]
