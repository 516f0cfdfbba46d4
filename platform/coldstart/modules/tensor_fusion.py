"""Tensor fusion of two modalities (TFN, Zadeh et al. 2017, arXiv:1707.07250).

MIM fuses image and title with it: the figure of arXiv 2502.00321 names TFN (tag P); the sizes are ours (tag I).

Legend: `k` width, `r` reduced width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCED = 32
"""`r`. The outer product has `(r + 1)^2` numbers."""


class TensorFusion(nn.Module):
    """`MLP(vec([image; 1] x [text; 1]))`, of unit norm; both modalities are first reduced to `r` numbers.

    The ones keep the terms of each modality alone. The reduction has no bias, so a missing modality, given as zeros,
    leaves exactly the other's terms.

    Args:
        width: `k`, of both inputs and of the output.
        reduced: `r`.
    """

    def __init__(self, width: int, reduced: int = REDUCED) -> None:
        super().__init__()
        self.image = nn.Linear(width, reduced, bias=False)
        self.text = nn.Linear(width, reduced, bias=False)
        self.mlp = nn.Sequential(nn.Linear((reduced + 1) ** 2, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Image and text vectors `[n, k]` -> fused vectors `[n, k]` of unit norm, float32."""
        # Unit vectors have entries of about 1 / sqrt(k), whose products would vanish beside the ones.
        scale = image.shape[-1] ** 0.5
        left, right = (
            F.pad(layer(x) * scale, (0, 1), value=1.0) for layer, x in ((self.image, image), (self.text, text))
        )
        products = torch.einsum("ni,nj->nij", left, right).flatten(1)
        return F.normalize(self.mlp(products).float(), dim=-1)
