"""Item vectors of a joint ranker besides the ID: proxies, or plain content vectors as a baseline.

Content vectors are trained by clicks from the same layer states, without alignment to the ID space. There are as many
of them as proxies, with at least as many parameters, so the difference between the two measures the alignment alone.

Legend: `d` ID width, `D` MLLM width, `G` layer groups, `K` vectors of an item.
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from coldstart.config.recipe import AdaptorAblation
from coldstart.methods.idproxy.adaptor import INIT_SCALE, Adaptor, content_mlp, normalize_groups, row_statistics


class ItemVectors(nn.Module, ABC):
    """Maps coarse proxy and layer states to `K` vectors of the width of an ID row.

    Attributes:
        config: Constructor arguments, saved with the weights.
        count: `K`.
        width: `d`.
    """

    config: dict[str, Any]
    count: int
    width: int

    @abstractmethod
    def init_near_mean(self, rows: Tensor) -> None:
        """Initializes the vectors in the range of ID rows `[n, d]`, which the ranker was trained on."""

    @abstractmethod
    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """Vectors `[..., K, d]` of coarse proxies `[..., d]` and layer states `[..., G, D]`."""


class ProxyVectors(ItemVectors):
    """The coarse proxy, scaled to the length of ID rows, and the fine proxy.

    Args:
        adaptor: Computes the fine proxy.
    """

    count = 2

    def __init__(self, adaptor: Adaptor) -> None:
        super().__init__()
        self.adaptor = adaptor
        self.config, self.width = adaptor.config, adaptor.config["width"]
        self.log_length = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def init_near_mean(self, rows: Tensor) -> None:
        """Fine proxies start near the mean row, coarse ones with the mean length of ID rows."""
        self.adaptor.init_near_mean(rows)
        self.log_length.copy_(rows.norm(dim=-1).mean().clamp(min=1e-3).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[..., 2, d]`."""
        return torch.stack([self.log_length.exp() * coarse, self.adaptor(coarse, states)], dim=-2)


class ContentVectors(ItemVectors):
    """Output of an MLP over the layer states.

    Args:
        width: `d`.
        groups: `G`.
        state_width: `D`.
        count: `K`.
        mlp_units: Hidden units of the MLP.
        dropout: Dropout rate of the MLP.
    """

    def __init__(
        self, width: int, groups: int, state_width: int, *, count: int, mlp_units: int, dropout: float
    ) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.config = {
            "width": width,
            "groups": groups,
            "state_width": state_width,
            "count": count,
            "mlp_units": mlp_units,
        }
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, mlp_units, count * width, dropout)
        self.offset = nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.zeros(()))

    @classmethod
    def with_param_budget(cls, proxies: ProxyVectors, *, dropout: float) -> Self:
        """Chooses the smallest MLP that has at least as many parameters as the proxies."""
        width, groups, state_width = (proxies.config[name] for name in ("width", "groups", "state_width"))
        budget, outputs = num_trainable(proxies), proxies.count * width
        fixed = 2 * groups * state_width + outputs + width + 1
        mlp_units = -(-(budget - fixed) // (groups * state_width + 1 + outputs))
        return cls(width, groups, state_width, count=proxies.count, mlp_units=max(mlp_units, 1), dropout=dropout)

    @torch.no_grad()
    def init_near_mean(self, rows: Tensor) -> None:
        """Vectors start near the mean row, like fine proxies."""
        mean, distance = row_statistics(rows)
        self.offset.copy_(mean)
        self.log_scale.copy_((distance * INIT_SCALE).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[..., K, d]`; ignores the coarse proxies."""
        flat = self.mlp(normalize_groups(self.norms, states))
        vectors: Tensor = self.offset + self.log_scale.exp() * flat.unflatten(-1, (self.count, self.width))
        return vectors


def num_trainable(module: nn.Module) -> int:
    """Number of trainable parameters of a module."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def make_vectors(kind: str, config: dict[str, Any], *, dropout: float = 0.0) -> ItemVectors:
    """Creates vectors of a kind (`proxies` or `content`) from their config."""
    if kind == "content":
        return ContentVectors(**config, dropout=dropout)
    sizes = {name: value for name, value in config.items() if name != "ablate"}
    ablate = AdaptorAblation.model_validate(config["ablate"])
    return ProxyVectors(Adaptor(**sizes, dropout=dropout, ablate=ablate))
