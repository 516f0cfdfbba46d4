"""The adaptor: maps an item's coarse proxy and layer states to the fine proxy for the ranker's item slot.

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
from coldstart.config.recipe import AdaptorAblation
from coldstart.data.item_table import ItemTable

WEIGHTS, CONFIG = "weights.safetensors", "adaptor.json"
NO_ABLATION = AdaptorAblation()
INIT_SCALE = 0.1
"""Initial distance of proxies from the mean ID row, as a fraction of the mean distance of ID rows from it."""


class Adaptor(nn.Module):
    """Residual gate over a coarse proxy and an MLP of the layer states (IDProxy, stage 2).

    `q = MLP([z_1 .. z_G])`, `r = sigmoid(W_g [p_c; q])`, `p_f = offset + scale * (W_c p_c + r * q)`.

    `init_near_mean` sets the offset to the mean ID row and the scale to a small value, so every item is scored like an
    average one at first and the ranker stays calibrated. Clicks train both.

    Args:
        width: `d`.
        groups: `G`.
        state_width: `D`.
        mlp_units: Hidden units of the MLP; 0 for a linear map.
        dropout: Dropout rate of the MLP.
        ablate: Parts to leave out. `coarse` leaves out `W_c p_c`; `gate` sets `r` to 1; `scale` fixes the distance of
            fine proxies from the offset to the mean distance of ID rows.
    """

    def __init__(
        self,
        width: int,
        groups: int,
        state_width: int,
        *,
        mlp_units: int,
        dropout: float,
        ablate: AdaptorAblation = NO_ABLATION,
    ) -> None:
        super().__init__()
        self.ablate = ablate
        self.config: dict[str, Any] = {
            "width": width,
            "groups": groups,
            "state_width": state_width,
            "mlp_units": mlp_units,
            "ablate": ablate.model_dump(),
        }
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, mlp_units, width, dropout)
        self.gate = nn.Linear(2 * width, width) if not ablate.gate else None
        self.coarse_proj = nn.Linear(width, width, bias=False) if not ablate.coarse else None
        if self.coarse_proj is not None:
            nn.init.eye_(self.coarse_proj.weight)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=not ablate.scale)
        self.offset = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def init_near_mean(self, rows: Tensor) -> None:
        """Initializes offset and scale so that proxies start near the mean of ID rows `[n, d]`."""
        mean, distance = row_statistics(rows)
        self.offset.copy_(mean)
        self.log_scale.copy_((distance * (1 if self.ablate.scale else INIT_SCALE)).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """Fine proxies `[..., d]` of coarse proxies `[..., d]` and layer states `[..., G, D]`."""
        delta = self.mlp(normalize_groups(self.norms, states))
        if self.gate is not None:
            delta = torch.sigmoid(self.gate(torch.cat([coarse, delta], dim=-1))) * delta
        if self.coarse_proj is not None:
            delta = self.coarse_proj(coarse) + delta
        if self.ablate.scale:
            delta = F.normalize(delta, dim=-1)
        fine: Tensor = self.offset + self.log_scale.exp() * delta
        return fine


def row_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[d]` of ID rows `[n, d]`, and their mean distance from it."""
    mean = rows.mean(0)
    return mean, (rows - mean).norm(dim=-1).mean().clamp(min=1e-3)


def content_mlp(inputs: int, mlp_units: int, outputs: int, dropout: float) -> nn.Sequential:
    """`[..., inputs]` to `[..., outputs]` with one hidden layer, or with none if `mlp_units` is 0."""
    if not mlp_units:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, outputs))
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, mlp_units), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp_units, outputs)
    )


def normalize_groups(norms: Iterable[nn.Module], states: Tensor) -> Tensor:
    """Layer states `[..., G, D]`, each group with its own norm, concatenated to `[..., G D]`."""
    return torch.cat([norm(states[..., group, :]) for group, norm in enumerate(norms)], dim=-1)


@torch.no_grad()
def fine_proxies(adaptor: Adaptor, items: ItemTable) -> Tensor:
    """Fine proxies `[V, d]` of a whole catalog, on the adaptor's device."""
    return torch.cat(
        [adaptor(columns["coarse"], columns["states"]) for _, columns in items.passes(adaptor.offset.device)]
    )


def save_adaptor(adaptor: Adaptor, path: Path) -> None:
    """Writes an adaptor into an existing directory."""
    (path / CONFIG).write_text(json.dumps(adaptor.config, indent=2))
    save_file({name: value.contiguous().cpu() for name, value in adaptor.state_dict().items()}, path / WEIGHTS)


def load_adaptor(path: Path) -> Adaptor:
    """Loads an adaptor in eval mode from a directory that `save_adaptor` wrote.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no adaptor at {path}: {CONFIG} or {WEIGHTS} is missing; run the align_fine stage first")
    try:
        config = json.loads((path / CONFIG).read_text())
        adaptor = Adaptor(
            config["width"],
            config["groups"],
            config["state_width"],
            mlp_units=config["mlp_units"],
            dropout=0.0,
            ablate=AdaptorAblation.model_validate(config["ablate"]),
        )
        adaptor.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a complete adaptor ({first}); run the align_fine stage again") from error
    return adaptor.eval()
