"""The last, dense part of a ranker."""

import torch
from torch import Tensor, nn

DRAW = 2**16


class Dropout(nn.Module):
    """Dropout by two random bytes a number: on a CPU, drawing floats would take a third of the MLP's time.

    Args:
        share: Of the numbers that are zeroed in training, to 1 in 65,536; the rest grow so that the mean stays.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(share * DRAW)

    def forward(self, x: Tensor) -> Tensor:
        """`x`, some of it zeroed while training."""
        if not (self.training and self.dropped):
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view_as(x) >= self.dropped - DRAW // 2
        return x * (kept * (DRAW / (DRAW - self.dropped)))

    def extra_repr(self) -> str:
        """For `print`."""
        return f"share={self.dropped / DRAW:.3g}"


def mlp(width: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    """`[..., width]` to `[..., 1]`, zero before the first step so that a ranker starts from its other parts."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), Dropout(dropout)]
        width = units
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
