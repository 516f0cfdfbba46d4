"""What a joint ranker is given of an item beside its ID: proxies, or content as rankers have always been given it.

The second is the opponent of the first: vectors learned by clicks from the same layer states, in no ID space, of the
same number and with at least as many parameters, so that what lies between the two is the alignment and nothing else.

Legend: `d` ID width, `D` MLLM width, `G` layer groups, `K` vectors of an item.
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from coldstart.alignment.adaptor import FIRST_STEP, Adaptor, content_mlp, normalised, place_of
from coldstart.config.recipe import AdaptorParts


class ItemVectors(nn.Module, ABC):
    """Coarse proxy and layer states to `K` vectors of the width of an ID row.

    Attributes:
        shape: What it is made again from.
        count: `K`.
        width: `d`.
    """

    shape: dict[str, Any]
    count: int
    width: int

    @abstractmethod
    def start_at(self, rows: Tensor) -> None:
        """Places the first vectors where ID rows `[n, d]` are, which is what reads them knows."""

    @abstractmethod
    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """Vectors `[..., K, d]` of coarse proxies `[..., d]` and layer states `[..., G, D]`."""


class ProxyVectors(ItemVectors):
    """The coarse proxy, at the length of ID rows, and the fine one.

    Args:
        adaptor: Makes the fine proxy.
    """

    count = 2

    def __init__(self, adaptor: Adaptor) -> None:
        super().__init__()
        self.adaptor = adaptor
        self.shape, self.width = adaptor.shape, adaptor.shape["width"]
        self.log_length = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def start_at(self, rows: Tensor) -> None:
        """The fine proxies near the mean row, the coarse ones as long as rows are."""
        self.adaptor.start_at(rows)
        self.log_length.copy_(rows.norm(dim=-1).mean().clamp(min=1e-3).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[..., 2, d]`."""
        return torch.stack([self.log_length.exp() * coarse, self.adaptor(coarse, states)], dim=-2)


class ContentVectors(ItemVectors):
    """An MLP of the layer states.

    Args:
        width: `d`.
        groups: `G`.
        state_width: `D`.
        count: `K`.
        hidden: Units of the MLP.
        dropout: In the MLP.
    """

    def __init__(self, width: int, groups: int, state_width: int, *, count: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.shape = {
            "width": width,
            "groups": groups,
            "state_width": state_width,
            "count": count,
            "hidden": hidden,
        }
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, hidden, count * width, dropout)
        self.offset = nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.zeros(()))

    @classmethod
    def matching(cls, proxies: ProxyVectors, *, dropout: float) -> Self:
        """With as many units as it takes to have at least the parameters of the proxies."""
        width, groups, state_width = (proxies.shape[name] for name in ("width", "groups", "state_width"))
        wanted, out = parameters(proxies), proxies.count * width
        fixed = 2 * groups * state_width + out + width + 1
        hidden = -(-(wanted - fixed) // (groups * state_width + 1 + out))
        return cls(width, groups, state_width, count=proxies.count, hidden=max(hidden, 1), dropout=dropout)

    @torch.no_grad()
    def start_at(self, rows: Tensor) -> None:
        """Near the mean row, as fine proxies are."""
        mean, distance = place_of(rows)
        self.offset.copy_(mean)
        self.log_scale.copy_((distance * FIRST_STEP).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[..., K, d]`; the coarse proxies are not read."""
        flat = self.mlp(normalised(self.norms, states))
        vectors: Tensor = self.offset + self.log_scale.exp() * flat.unflatten(-1, (self.count, self.width))
        return vectors


def parameters(module: nn.Module) -> int:
    """How many numbers of a module are trained."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def make_vectors(kind: str, shape: dict[str, Any], *, dropout: float = 0.0) -> ItemVectors:
    """The vectors of a kind (`proxies`, `content`) and shape."""
    if kind == "content":
        return ContentVectors(**shape, dropout=dropout)
    sizes = {name: value for name, value in shape.items() if name != "parts"}
    parts = AdaptorParts.model_validate(shape["parts"])
    return ProxyVectors(Adaptor(**sizes, dropout=dropout, parts=parts))
