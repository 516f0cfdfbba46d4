"""The adaptor: from an item's coarse proxy and layer states to the fine proxy that fits the ranker's item slot.

Legend: `d` ID width, `D` MLLM width, `G` layer groups.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.config.recipe import AdaptorParts

WEIGHTS, CARD = "weights.safetensors", "adaptor.json"
ITEMS_PER_PASS = 4096
WHOLE = AdaptorParts()
FIRST_STEP = 0.1
"""How far from the mean row the first proxies lie, in typical distances of an ID row from it."""


class Adaptor(nn.Module):
    """Residual gate over a coarse proxy and an MLP of the layer states (IDProxy, stage 2).

    `q = MLP([z_1 .. z_G])`, `r = sigmoid(W_g [p_c; q])`, `p_f = offset + scale * (W_c p_c + r * q)`.

    The offset begins at the mean ID row and the scale small, so at first every item is scored as an unremarkable one
    and the ranker stays calibrated; both are learned from clicks.

    Args:
        width: `d`.
        groups: `G`.
        state_width: `D`.
        hidden: Units of the MLP, 0 for a linear map.
        dropout: In the MLP.
        parts: Which of the other parts there are. Without `coarse`, `W_c p_c` is left out; without `gate`, `r` is 1;
            without `scale`, fine proxies have the length of ID rows.
    """

    def __init__(
        self,
        width: int,
        groups: int,
        state_width: int,
        *,
        hidden: int,
        dropout: float,
        parts: AdaptorParts = WHOLE,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.shape: dict[str, Any] = {
            "width": width,
            "groups": groups,
            "state_width": state_width,
            "hidden": hidden,
            "parts": parts.model_dump(),
        }
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, hidden, width, dropout)
        self.gate = nn.Linear(2 * width, width) if parts.gate else None
        self.carry = nn.Linear(width, width, bias=False) if parts.coarse else None
        if self.carry is not None:
            nn.init.eye_(self.carry.weight)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=parts.scale)
        self.offset = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def start_at(self, rows: Tensor) -> None:
        """Places the first proxies near the mean of ID rows `[n, d]`, scaled to their spread."""
        mean, distance = place_of(rows)
        self.offset.copy_(mean)
        self.log_scale.copy_((distance * (FIRST_STEP if self.parts.scale else 1)).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """Fine proxies `[..., d]` of coarse proxies `[..., d]` and layer states `[..., G, D]`."""
        step = self.mlp(normalised(self.norms, states))
        if self.gate is not None:
            step = torch.sigmoid(self.gate(torch.cat([coarse, step], dim=-1))) * step
        if self.carry is not None:
            step = self.carry(coarse) + step
        if not self.parts.scale:
            step = F.normalize(step, dim=-1)
        fine: Tensor = self.offset + self.log_scale.exp() * step
        return fine


def place_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[d]` of ID rows `[n, d]`, and their typical distance from it."""
    mean = rows.mean(0)
    return mean, (rows - mean).norm(dim=-1).mean().clamp(min=1e-3)


def content_mlp(read: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """`[..., read]` to `[..., out]` with one hidden layer, or none."""
    if not hidden:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(read, out))
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(read, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out)
    )


def normalised(norms: Iterable[nn.Module], states: Tensor) -> Tensor:
    """Layer states `[..., G, D]`, each group by its own norm, side by side: `[..., G D]`."""
    return torch.cat([norm(states[..., group, :]) for group, norm in enumerate(norms)], dim=-1)


@torch.no_grad()
def fine_proxies(adaptor: Adaptor, coarse: Tensor, states: Tensor) -> Tensor:
    """Fine proxies `[n, d]` of a whole catalogue, some items at a time."""
    parts = zip(*(torch.split(each, ITEMS_PER_PASS) for each in (coarse, states)), strict=True)
    return torch.cat([adaptor(*part) for part in parts])


def save_adaptor(adaptor: Adaptor, path: Path) -> None:
    """Writes an adaptor into an existing directory."""
    (path / CARD).write_text(json.dumps(adaptor.shape, indent=2))
    save_file({name: value.contiguous().cpu() for name, value in adaptor.state_dict().items()}, path / WEIGHTS)


def load_adaptor(path: Path) -> Adaptor:
    """Reads an adaptor, in eval mode, from a directory that `save_adaptor` wrote.

    Raises:
        UserError: files are missing or do not fit together.
    """
    if not (path / CARD).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no adaptor at {path}: {CARD} or {WEIGHTS} is missing; run the align_fine stage first")
    try:
        shape = json.loads((path / CARD).read_text())
        adaptor = Adaptor(
            shape["width"],
            shape["groups"],
            shape["state_width"],
            hidden=shape["hidden"],
            dropout=0.0,
            # Adaptors of earlier releases are whole and do not say so.
            parts=AdaptorParts.model_validate(shape.get("parts", {})),
        )
        adaptor.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a whole adaptor ({first}); train it anew") from error
    return adaptor.eval()
