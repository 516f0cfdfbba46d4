"""The last, dense part of a ranker."""

from torch import nn


def mlp(width: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    """`[..., width]` to `[..., 1]`, zero before the first step so that a ranker starts from its other parts."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
