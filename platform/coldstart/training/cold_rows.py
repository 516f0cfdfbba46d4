"""Valid rows of cold items: what fine alignment is judged by, and levelled on."""

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
from coldstart.training.click_loop import score_rows, slot_scorer
from coldstart.training.ranker_loop import TRAIN, VALID
from coldstart.training.ranks import rank, world_size

SlotModel = Callable[[RankBatch, Tensor], Tensor]
"""(batch, slots `[B, T, s]`) to click logits `[B, T]`."""
MIN_COLD_ROWS = 500
"""Valid rows of cold items below which all valid rows are looked at instead."""
WINDOWS_PER_PASS = 128
MOST_MOVES = 8
SHORTNESS = 0.01
"""What a step's length counts for, against its being alike for all rows, in mean squared gradients."""
NEAR = 1e-3
"""Logits that are not worth another move."""
BEYOND = 20.0
"""Logits past the largest one, where a level is sought no more: there everything is a click, or nothing."""


def judged_rows(sequences: EventSequences, valid: UserWindows) -> npt.NDArray[np.bool_]:
    """Which valid rows decide when to stop: those of cold items, or all where these are too few."""
    items = np.asarray(sequences.item_idx)
    train_items = np.unique(items[np.asarray(sequences.split) == TRAIN])
    cold = ~np.isin(items[valid.rows], train_items)
    return cold if cold.sum() >= MIN_COLD_ROWS else np.ones_like(cold)


def level(table: Tensor, model: SlotModel, unknown: Tensor, sequences: EventSequences, *, history: int) -> Tensor:
    """The step `[s]` that all vectors of cold items take for them to be foretold as many clicks as unknown items.

    What reads content has seen the items it learns from, and takes those it has not seen for unpopular ones, the more
    so where items count alike that are not clicked alike: the order is good and its level too low. This is calibration
    in the large, done in the item slot, so that the ranker stays as it is. The direction is the one that changes the
    logits of all rows as nearly alike as can be (least squares over the rows' gradients), so the order stays, too.

    The level aimed at is what the model foretells of the cold rows with the unknown in every slot, once that is set
    right on all valid rows. Clicks of the cold rows alone would say how new items fared in one season, which is no
    guide to the next. Called on all ranks alike.

    Args:
        table: [V, s] what would stand in the slot of each item if it had no ID; on the model's device.
        model: That reads it, in eval mode.
        unknown: [s] what stands in the slot of an item of which nothing is known; on any device.
        sequences: Events of all users, of which the valid ones are looked at.
        history: Longest history a target sees.
    """
    valid = UserWindows(sequences, history=history, splits=[VALID])
    judged = judged_rows(sequences, valid)
    labels = np.asarray(sequences.label)[valid.rows]
    step = torch.zeros_like(table[0])
    if not len(labels) or labels.min() == labels.max():
        return step
    logits = score_rows(slot_scorer(model, unknown.to(table).expand_as(table)), valid)
    aim = _mean(expit(logits + _missed(logits, _mean(labels)))[judged])
    uphill = _alike(table, model, valid, judged)
    tried = list[tuple[float, Tensor]]()
    for _ in range(MOST_MOVES):
        missed = _missed(score_rows(slot_scorer(model, table + step), valid)[judged], aim)
        tried.append((abs(missed), step))
        if abs(missed) < NEAR:
            break
        step = step + uphill * missed
    return min(tried, key=itemgetter(0))[1]


def levelled(table: Tensor, ranker: Ranker, sequences: EventSequences) -> Tensor:
    """A table `[V, d]` of vectors that no clicks taught, such as a map's, one `level` step on; row 0 stays."""
    step = level(table, ranker, ranker.id_rows()[0], sequences, history=ranker.history)
    return torch.cat([table[:1], table[1:] + step])


def _alike(table: Tensor, model: SlotModel, valid: UserWindows, judged: npt.NDArray[np.bool_]) -> Tensor:
    """The direction `[s]` along which the logits of the judged rows grow as nearly alike as can be, by 1 on average."""
    width, rows = table.shape[-1], torch.from_numpy(valid.rows[judged])
    # In double precision: sums of single ones depend on where an array lies in memory.
    moments, mean = (torch.zeros(shape, dtype=torch.float64, device=table.device) for shape in ((width, width), width))
    for batch in valid.sweep(windows_per_step=WINDOWS_PER_PASS, rank=rank(), world=world_size()):
        counts = torch.isin(batch.row, rows) & (batch.weight > 0)
        there = batch.to(table.device)
        slots = table[there.target_idx].detach().requires_grad_(True)
        # A target's logit depends on its own slot alone, so this is the gradient of every row.
        (gradients,) = torch.autograd.grad(model(there, slots).sum(), slots)
        gradients = gradients[counts.to(table.device)].double()
        moments += gradients.T @ gradients
        mean += gradients.sum(0)
    if world_size() > 1:
        dist.all_reduce(moments)
        dist.all_reduce(mean)
    if not mean.any():  # the model does not look into the slot
        return torch.zeros_like(table[0])
    moments.diagonal().add_(moments.trace() * (SHORTNESS / width))
    direction: Tensor = torch.linalg.solve(moments, mean)
    return direction.mul(len(rows) / (mean @ direction)).to(table)


def _missed(logits: npt.NDArray[np.float32], rate: float) -> float:
    """What is to be added to every logit for the mean probability to be the rate."""
    reach = float(np.abs(logits).max()) + BEYOND

    def excess(shift: float) -> float:
        return _mean(expit(logits + shift)) - rate

    return float(brentq(excess, -reach, reach))


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean(dtype=np.float64))
