"""Fits the weights of a similarity scorer, and makes the text vectors that it may compare.

Legend: `V` vocabulary (items + 1; row 0 is the unknown item).
"""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from coldstart.data.batches import EventSequences, UserWindows
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.encoders.text_svd import TextSvd, text_of
from coldstart.methods.baselines.similarity_scorer import SimilarityScorer
from coldstart.rankers.scorer import drop_target_ids
from coldstart.training.cold_calibration import MIN_COLD_ROWS, early_stopping_mask
from coldstart.training.ranker_training import VALID

TEXT_WIDTH = 64
WINDOWS_PER_PASS = 128
DEFAULT_PENALTY = 1.0
"""L2 penalty of the regression, in rows, where it is not tuned."""
MAX_ROWS = 500_000
"""Validation rows that the regression is fitted on."""


def has_text(dataset: Dataset) -> bool:
    """Whether any item has a title or a text."""
    return any(_texts(dataset))


def text_vectors(dataset: Dataset, svd: TextSvd | None) -> Tensor:
    """TF-IDF vectors of all items, `[V, w]`; zeros for row 0 and, without a map, for all items."""
    if svd is None:
        return torch.zeros(dataset.num_items + 1, 1)
    vectors = svd(_texts(dataset))
    return torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors]))


def fit_text(dataset: Dataset, *, seed: int) -> TextSvd:
    """The map from texts to `text_vectors`.

    Raises:
        UserError: the catalog has too little text.
    """
    return TextSvd.fit(_texts(dataset), width=TEXT_WIDTH, seed=seed)


def _texts(dataset: Dataset) -> list[str]:
    table = dataset.items(["title", "text"])
    return [text_of(Content(*parts)) for parts in zip(*(column.to_pylist() for column in table.columns), strict=True)]


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
    cold = torch.from_numpy(valid.event_indices[early_stopping_mask(sequences, valid)])
    rows: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
    taken, order = 0, np.random.default_rng(seed).permutation(len(valid))
    with torch.inference_mode():
        for at in range(0, len(order), WINDOWS_PER_PASS):
            if taken >= MAX_ROWS:
                break
            batch = valid.batch(order[at : at + WINDOWS_PER_PASS])
            counts = batch.weight > 0
            unseen = counts & torch.isin(batch.event_index, cold)
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
    """Weights and bias for the inputs as they are; those of the base logit alone if the rows are too few."""
    found = np.zeros(inputs.shape[1] + 1, np.float32)
    found[0] = 1.0
    if len(labels) < MIN_COLD_ROWS or labels.min() == labels.max():
        return found
    scaler = StandardScaler().fit(inputs)
    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaler.transform(inputs), labels)
    found[:-1] = model.coef_[0] / scaler.scale_
    found[-1] = model.intercept_[0] - (model.coef_[0] * scaler.mean_ / scaler.scale_).sum()
    return found
