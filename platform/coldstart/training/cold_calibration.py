"""Calibration of cold items: validation rows for early stopping, and one shared shift of their vectors."""

from collections.abc import Callable
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.rankers import Ranker
from coldstart.training.ctr_trainer import Gauc, Score, gauc_of, score_targets, slot_score
from coldstart.training.distributed import rank, world_size
from coldstart.training.ranker_training import TRAIN, VALID

SlotModel = Callable[[RankBatch, Tensor], Tensor]
"""Maps (batch, slots `[B, T, s]`) to click logits `[B, T]`."""
MIN_COLD_ROWS = 500
"""With fewer validation rows of cold items, all validation rows are used instead."""
WINDOWS_PER_PASS = 128
MAX_ITERATIONS = 8
RIDGE = 0.01
"""Ridge penalty on the direction's length, relative to the mean squared gradient."""
TOLERANCE = 1e-3
"""The search stops at an intercept below this, in logits."""
MARGIN = 20.0
"""The intercept is searched up to the largest logit plus this, where all probabilities are 0 or 1."""


def early_stopping_mask(sequences: EventSequences, valid: UserWindows) -> npt.NDArray[np.bool_]:
    """Validation rows that decide early stopping: those of cold items, or all if there are too few."""
    items = np.asarray(sequences.item_idx)
    train_items = np.unique(items[np.asarray(sequences.split) == TRAIN])
    cold = ~np.isin(items[valid.event_indices], train_items)
    return cold if cold.sum() >= MIN_COLD_ROWS else np.ones_like(cold)


def cold_validation(score: Score, sequences: EventSequences, gauc: Gauc, *, history: int) -> Callable[[], float]:
    """The validation of a trainer: GAUC of the rows that `early_stopping_mask` marks. Call the result on all ranks.

    Args:
        score: Of the model in training.
        sequences: Events of all users.
        gauc: Per-user AUC.
        history: Maximum length of a target's history.
    """
    valid = UserWindows(sequences, history=history, splits=[VALID])
    selected = early_stopping_mask(sequences, valid)
    return lambda: gauc_of(sequences, valid.event_indices, score_targets(score, valid), gauc, among=selected)


def calibration_shift(
    table: Tensor, model: SlotModel, unknown: Tensor, sequences: EventSequences, *, history: int
) -> Tensor:
    """One shared offset `[s]` for the vectors of all cold items, so that their mean CTR equals the OOV prediction.

    A content model has memorized the items that it trains on and underestimates unseen ones, most of all where rare and
    popular items have similar weights: the order is good but the mean prediction is too low. This is calibration in the
    large, applied to the item slot, so that the ranker stays unchanged. The direction is the one that changes the
    logits of all rows most uniformly (least squares over the rows' gradients), so the order is kept, too.

    The target is the mean prediction on cold rows with the OOV vector in every slot, after an intercept that calibrates
    it on all validation rows. The clicks of the cold rows are not the target: they depend on the season in which those
    items appeared. Call it on all ranks.

    Args:
        table: [V, s] slot of each item without an ID; on the model's device.
        model: Scores the slots, in eval mode.
        unknown: [s] slot of an unknown item; on any device.
        sequences: Events of all users; only validation events are used.
        history: Maximum length of a target's history.
    """
    valid = UserWindows(sequences, history=history, splits=[VALID])
    selected = early_stopping_mask(sequences, valid)
    labels = np.asarray(sequences.label)[valid.event_indices]
    shift = torch.zeros_like(table[0])
    if not len(labels) or labels.min() == labels.max():
        return shift
    logits = score_targets(slot_score(model, unknown.to(table).expand_as(table)), valid)
    target = _mean(expit(logits + _intercept(logits, _mean(labels)))[selected])
    direction = _uniform_logit_direction(table, model, valid, selected)
    tried = list[tuple[float, Tensor]]()
    for _ in range(MAX_ITERATIONS):
        error = _intercept(score_targets(slot_score(model, table + shift), valid)[selected], target)
        tried.append((abs(error), shift))
        if abs(error) < TOLERANCE:
            break
        shift = shift + direction * error
    return min(tried, key=itemgetter(0))[1]


def calibrate_table(table: Tensor, ranker: Ranker, sequences: EventSequences) -> Tensor:
    """Adds `calibration_shift` to a table `[V, d]` that was not trained by clicks, except to row 0."""
    shift = calibration_shift(table, ranker, ranker.id_rows()[0], sequences, history=ranker.max_history)
    return torch.cat([table[:1], table[1:] + shift])


def _uniform_logit_direction(
    table: Tensor, model: SlotModel, valid: UserWindows, selected: npt.NDArray[np.bool_]
) -> Tensor:
    """The direction `[s]` that raises the logits of the selected rows most uniformly, by 1 on average."""
    width, rows = table.shape[-1], torch.from_numpy(valid.event_indices[selected])
    # Double precision, because float32 sums depend on the memory alignment of an array.
    moments, mean = (torch.zeros(shape, dtype=torch.float64, device=table.device) for shape in ((width, width), width))
    for batch in valid.iter_eval(windows_per_step=WINDOWS_PER_PASS, rank=rank(), world=world_size()):
        counts = torch.isin(batch.event_index, rows) & (batch.weight > 0)
        moved = batch.to(table.device)
        slots = table[moved.target_row].detach().requires_grad_(True)
        # A target's logit depends on its own slot only, so this is the gradient of every row.
        (gradients,) = torch.autograd.grad(model(moved, slots).sum(), slots)
        gradients = gradients[counts.to(table.device)].double()
        moments += gradients.T @ gradients
        mean += gradients.sum(0)
    if world_size() > 1:
        dist.all_reduce(moments)
        dist.all_reduce(mean)
    if not mean.any():  # The model ignores the slot.
        return torch.zeros_like(table[0])
    moments.diagonal().add_(moments.trace() * (RIDGE / width))
    direction: Tensor = torch.linalg.solve(moments, mean)
    return direction.mul(len(rows) / (mean @ direction)).to(table)


def _intercept(logits: npt.NDArray[np.float32], rate: float) -> float:
    """The number that, added to every logit, makes the mean probability equal to `rate`."""
    bound = float(np.abs(logits).max()) + MARGIN

    def excess(shift: float) -> float:
        return _mean(expit(logits + shift)) - rate

    return float(brentq(excess, -bound, bound))


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean(dtype=np.float64))
