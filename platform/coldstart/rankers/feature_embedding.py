"""Features of a target (user, item, context) as one vector.

Legend: `B` rows, `T` targets, `C` categorical features, `N` numeric features, `f` width of their vector.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.data.features import NO_FEATURES, FeatureSchema

__all__ = ["NO_FEATURES", "FeatureEmbedding", "FeatureSchema"]


class FeatureEmbedding(nn.Module):
    """Concatenates embeddings of the categorical features and the numeric features.

    Without features it has no weights, draws no random numbers and returns `[B, T, 0]`. All categorical features share
    one table, so a batch needs one lookup. Rows of code 0 (missing value) start at zero: if the train split has no
    missing values they are never trained, and must not add noise.

    Args:
        schema: The features of the dataset.
        width: Embedding width of one categorical feature.

    Attributes:
        width: `f`, width of the output vector: `C * width + N`.
    """

    def __init__(self, schema: FeatureSchema, width: int) -> None:
        super().__init__()
        self.width = len(schema.categorical) * width + len(schema.numeric)
        self.table: nn.Embedding | None = None
        if schema.categorical:
            sizes = torch.tensor(schema.cardinalities)
            first = torch.cumsum(sizes, 0) - sizes
            self.register_buffer("first", first, persistent=False)
            self.table = nn.Embedding(int(sizes.sum()), width, sparse=True)
            nn.init.normal_(self.table.weight, std=0.02)
            with torch.no_grad():
                self.table.weight[first] = 0

    def forward(self, batch: RankBatch) -> Tensor:
        """Vectors `[B, T, f]` of the targets' features."""
        if self.table is None:
            return batch.numeric
        codes: Tensor = self.table(batch.categorical + self.get_buffer("first"))
        return torch.cat([codes.flatten(2), batch.numeric], dim=-1)
