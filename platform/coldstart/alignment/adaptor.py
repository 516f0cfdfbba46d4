"""The adaptor: from an item's coarse proxy and layer states to the fine proxy that fits the ranker's item slot.

Legend: `d` ID width, `D` MLLM width, `G` layer groups.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError

WEIGHTS, CARD = "weights.safetensors", "adaptor.json"
ITEMS_PER_PASS = 4096
_FIRST_STEP = 0.1
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
        hidden: Units of the MLP.
        dropout: In the MLP.
    """

    def __init__(self, width: int, groups: int, state_width: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.shape = {"width": width, "groups": groups, "state_width": state_width, "hidden": hidden}
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(groups * state_width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )
        self.gate = nn.Linear(2 * width, width)
        self.carry = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.carry.weight)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def start_at(self, rows: Tensor) -> None:
        """Places the first proxies near the mean of ID rows `[n, d]`, scaled to their spread."""
        mean = rows.mean(0)
        self.offset.copy_(mean)
        distance = (rows - mean).norm(dim=-1).mean().clamp(min=1e-3)
        self.log_scale.copy_((distance * _FIRST_STEP).log())

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """Fine proxies `[..., d]` of coarse proxies `[..., d]` and layer states `[..., G, D]`."""
        read = torch.cat([norm(states[..., group, :]) for group, norm in enumerate(self.norms)], dim=-1)
        refined = self.mlp(read)
        gate = torch.sigmoid(self.gate(torch.cat([coarse, refined], dim=-1)))
        fine: Tensor = self.offset + self.log_scale.exp() * (self.carry(coarse) + gate * refined)
        return fine


@torch.inference_mode()
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
        adaptor = Adaptor(shape["width"], shape["groups"], shape["state_width"], hidden=shape["hidden"], dropout=0.0)
        adaptor.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a whole adaptor ({first}); train it anew") from error
    return adaptor.eval()
