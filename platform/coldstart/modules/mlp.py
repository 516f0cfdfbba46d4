"""The MLP at the end of a ranker, and its dropout."""

import torch
from torch import Tensor, nn

DRAW = 2**16


class Dropout(nn.Module):
    """Dropout that draws two random bytes per element; on a CPU, drawing floats would take a third of the MLP's time.

    Args:
        p: Share of elements that training sets to zero, in steps of 1 / 65,536; the others are scaled up so that the
            mean stays the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = round(p * DRAW)

    def forward(self, x: Tensor) -> Tensor:
        """`x`, with random elements set to zero in training mode."""
        if not (self.training and self.dropped):
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view_as(x) >= self.dropped - DRAW // 2
        return x * (kept * (DRAW / (DRAW - self.dropped)))

    def extra_repr(self) -> str:
        """For `print`."""
        return f"p={self.dropped / DRAW:.3g}"


def mlp(width: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    """`[..., width]` to `[..., 1]`. The output starts at zero, so a new ranker scores with its other parts alone."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), Dropout(dropout)]
        width = units
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def input_size(layers: nn.Sequential) -> int:
    """Number of inputs of an MLP."""
    first = layers[0]
    assert isinstance(first, nn.Linear)
    return first.in_features


@torch.no_grad()
def copy_into_wider(wider: nn.Sequential, trained: nn.Sequential) -> None:
    """Copies the weights of an MLP into one with more inputs; weights of the added inputs become zero."""
    for new, old in zip(wider, trained, strict=True):
        if isinstance(new, nn.Linear) and isinstance(old, nn.Linear):
            new.weight.zero_()
            new.weight[:, : old.in_features] = old.weight
            new.bias.copy_(old.bias)
