"""Content similarity: what a user clicked and skipped before, compared with the candidate by content alone.

A logistic regression weighs the similarity beside the logit of any other scorer. Nothing else is trained, so this is
the baseline that no method may lose to (papers.md 1.3 and 6.2; the idea of the features is SimTier's, [T]).

Legend: `D` content width, `G` layer groups, `V` vocabulary.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldstart.data.batches import RankBatch
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable
from coldstart.methods.base import ItemAdaptor, JoinedColumns
from coldstart.modules.content_similarity import FEATURES, similarity_features
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.scorer import Scorer

CONTENT, TEXT = "content", "text"
"""Columns of vectors that are compared: of the encoder, and of TF-IDF."""
FILE = "similarity.safetensors"


class CenteredStates(ItemAdaptor):
    """Writes layer states as one content vector: each group is centered, so that cosines are not all alike, and scaled.

    Args:
        mean: [G, D] mean states of the catalog.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.inputs: ColumnSpecs = {"states": ColumnSpec("float32", tuple(mean.shape))}
        self.outputs: ColumnSpecs = {CONTENT: ColumnSpec("float32", (mean.numel(),))}

    @classmethod
    def of(cls, items: ItemTable) -> "CenteredStates":
        """For the states of a catalog; row 0 (unknown) does not count."""
        return cls(items.columns["states"][1:].mean(0))

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`[n, G D]`; an item without content, whose states are zero, gets zeros."""
        states = columns["states"]
        known = states.flatten(1).any(dim=-1, keepdim=True)
        return {CONTENT: F.normalize(states - self.mean, dim=-1).flatten(1) * known}


class SimilarityScorer(Scorer):
    """The logit of a scorer and similarities of content, weighed by a logistic regression.

    Targets with and without a trained ID row have weights of their own: an ID row already knows part of what content
    says.

    Args:
        base: Any scorer.
        widths: Column whose vectors are compared -> its `D`.

    Attributes:
        weights: [2, 2 + 6 columns] weights for targets without and with an ID row: base logit, `FEATURES` of every
            column, bias.
    """

    reads_history = True
    weights: Tensor

    def __init__(self, base: Scorer, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.base, self.widths = base, dict(widths)
        self.inputs = {**base.inputs, **{name: ColumnSpec("float32", (width,)) for name, width in widths.items()}}
        identity = torch.zeros(2, 2 + len(FEATURES) * len(widths))
        identity[:, 0] = 1.0
        self.register_buffer("weights", identity)

    @property
    def max_history(self) -> int:
        """Longest history of a target, in events."""
        return self.base.max_history

    @property
    def features(self) -> FeatureSchema:
        """Features that the base scorer reads."""
        return self.base.features

    @property
    def id_weight(self) -> Tensor:
        """`[V]` that of the base scorer."""
        return self.base.id_weight

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        inputs = self.regression_inputs(batch, items)
        weights = self.weights[(self.id_weight[batch.target_idx] > 0).long()]
        logits: Tensor = (inputs * weights[..., :-1]).sum(-1) + weights[..., -1]
        return logits

    def regression_inputs(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Base logit and similarities `[B, T, 1 + 6 columns]`."""
        vectors = items.select(self.widths)
        target, history = vectors.gather(batch.target_row), vectors.gather(batch.history_row)
        similar = [
            similarity_features(target[name], history[name], batch.history_label, batch.history_mask)
            for name in self.widths
        ]
        return torch.cat([self.base(batch, items).unsqueeze(-1), *similar], dim=-1)


def save_similarity(scorer: SimilarityScorer, content: CenteredStates, directory: Path) -> None:
    """Writes the weights and the mean states into the directory of the base scorer."""
    tensors = {"weights": scorer.weights, "mean": content.mean}
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, directory / FILE)


def has_similarity(directory: Path) -> bool:
    """Whether a scorer's directory has weights of similarities."""
    return (directory / FILE).is_file()


def with_content(adaptor: ItemAdaptor, directory: Path) -> ItemAdaptor:
    """The adaptor, with content vectors as `save_similarity` wrote them, in eval mode."""
    return JoinedColumns(adaptor, CenteredStates(load_file(directory / FILE)["mean"])).eval()


def with_similarity(base: Scorer, directory: Path) -> Scorer:
    """The scorer, with similarities weighed as `save_similarity` wrote them, in eval mode."""
    tensors = load_file(directory / FILE)
    scorer = SimilarityScorer(base, {CONTENT: tensors["mean"].numel()})
    scorer.weights.copy_(tensors["weights"])
    return scorer.eval()
