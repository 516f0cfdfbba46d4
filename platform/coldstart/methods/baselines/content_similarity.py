"""Content similarity: what a user clicked and skipped before, compared with the candidate by content alone.

A logistic regression weighs the similarity beside the logit of any other scorer. Nothing else is trained, so this is
the baseline that no method may lose to (papers.md 1.3 and 6.2; the idea of the features is SimTier's, [T]).

Legend: `D` content width, `G` layer groups, `V` vocabulary.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable
from coldstart.encoders.text_svd import TextSvd, text_of
from coldstart.methods.base import ItemAdaptor
from coldstart.modules.content_similarity import FEATURES, similarity_features
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.scorer import Scorer, drop_target_ids
from coldstart.training.cold_calibration import MIN_COLD_ROWS, early_stopping_mask
from coldstart.training.ranker_training import VALID

CONTENT = "content"
TEXT_WIDTH = 64
NUM_WEIGHTS = 1 + len(FEATURES) + 1
WINDOWS_PER_PASS = 128
DEFAULT_PENALTY = 1.0
"""L2 penalty of the regression, in rows, where it is not tuned."""
MAX_ROWS = 500_000
"""Validation rows that the regression is fitted on."""


def text_vectors(dataset: Dataset, *, seed: int) -> Tensor:
    """TF-IDF vectors of all items, `[V, w]`; zeros for row 0 and, if the catalog has no text, for all items."""
    table = dataset.items(["title", "text"])
    texts = [text_of(Content(*parts)) for parts in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    if not any(texts):
        return torch.zeros(len(texts) + 1, 1)
    vectors = TextSvd.fit(texts, width=TEXT_WIDTH, seed=seed)(texts)
    return torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors]))


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
        width: `D`.

    Attributes:
        weights: [2, 8] weights for targets without and with an ID row: base logit, `FEATURES`, bias.
    """

    reads_history = True
    weights: Tensor

    def __init__(self, base: Scorer, width: int) -> None:
        super().__init__()
        self.base = base
        self.inputs = {**base.inputs, CONTENT: ColumnSpec("float32", (width,))}
        identity = torch.zeros(2, NUM_WEIGHTS)
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
        """Base logit and similarities `[B, T, 7]`."""
        content = ItemTable({CONTENT: items.columns[CONTENT]})
        target, history = (content.gather(rows)[CONTENT] for rows in (batch.target_row, batch.history_row))
        similar = similarity_features(target, history, batch.history_label, batch.history_mask)
        return torch.cat([self.base(batch, items).unsqueeze(-1), similar], dim=-1)


def fit_similarity(
    scorer: SimilarityScorer, items: ItemTable, sequences: EventSequences, *, penalty: float, seed: int
) -> SimilarityScorer:
    """Fits the weights of a scorer on validation rows, by logistic regression on standardized inputs.

    The weights for targets without an ID are fitted on the rows that also decide early stopping (cold items, or all if
    there are too few), with all target IDs dropped; those for targets with an ID on the other rows. Test rows are
    never read.

    Args:
        scorer: Its weights are replaced.
        items: The columns that it reads.
        sequences: Events of all users.
        penalty: L2 penalty, in rows.
        seed: Of the sample of rows, if there are more than `MAX_ROWS`.
    """
    valid = UserWindows(sequences, history=scorer.max_history, splits=[VALID])
    cold = set(valid.event_indices[early_stopping_mask(sequences, valid)].tolist())
    rows: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
    taken, order = 0, np.random.default_rng(seed).permutation(len(valid))
    with torch.inference_mode():
        for at in range(0, len(order), WINDOWS_PER_PASS):
            if taken >= MAX_ROWS:
                break
            batch = valid.batch(order[at : at + WINDOWS_PER_PASS])
            counts = batch.weight > 0
            unseen = counts & torch.from_numpy(np.isin(batch.event_index.numpy(), list(cold)))
            known = counts & (scorer.id_weight[batch.target_idx] > 0)
            for found, chosen, seen_as in ((rows[0], unseen, drop_target_ids(batch)), (rows[1], known, batch)):
                if chosen.any():
                    found.append((scorer.regression_inputs(seen_as, items)[chosen], batch.label[chosen]))
            taken += int(counts.sum())
    for kind, found in enumerate(rows):
        if found:
            inputs, labels = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
            scorer.weights[kind] = torch.from_numpy(_regression(inputs, labels, penalty))
    return scorer


def _regression(
    inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], penalty: float
) -> npt.NDArray[np.float32]:
    """Weights `[8]` of the inputs as they are; those of the base logit alone if the rows are too few."""
    found = np.zeros(NUM_WEIGHTS, np.float32)
    found[0] = 1.0
    if len(labels) < MIN_COLD_ROWS or labels.min() == labels.max():
        return found
    scaler = StandardScaler().fit(inputs)
    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaler.transform(inputs), labels)
    found[:-1] = model.coef_[0] / scaler.scale_
    found[-1] = model.intercept_[0] - (model.coef_[0] * scaler.mean_ / scaler.scale_).sum()
    return found
