"""Cross network (DCN-V2: Wang et al. 2021, section 3.1, equation 1)."""

from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """`x_{i+1} = x_0 * (W_i x_i + b_i) + x_i`: each layer raises the polynomial degree of the crosses by one.

    Args:
        width: Of the crossed vector; a layer costs its square.
        layers: Number of layers.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, start: Tensor) -> Tensor:
        """`[..., width]` to the same shape."""
        crossed = start
        for layer in self.layers:
            crossed = start * layer(crossed) + crossed
        return crossed
