"""Training by clicks, shared by ranker and adaptor: epochs over user windows on all ranks, early stop, resume."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.config import Journal
from coldstart.data.batches import EventSequences, RankBatch, UserWindows, users_of
from coldstart.training.gradients import GradientSum
from coldstart.training.ranks import barrier, device, rank, world_size

Gauc = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], float]
"""Takes user, label and score of each row; returns the per-user AUC, averaged."""


class Scorer(Protocol):
    """What gives click logits for a batch; `step` is None when scoring and the global step when training."""

    def __call__(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long to train, on how much at a time, and when to give up."""

    epochs: int
    patience: int
    windows_per_step: int
    seed: int


@dataclass(kw_only=True)
class Progress:
    """Where a training run stands; everything but the weights that a resumed run needs."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    rows: int = 0
    seconds: float = 0.0
    history: list[float] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        """Targets trained on per second of training, validation left out."""
        return self.rows / max(self.seconds, 1e-9)


class ClickLoop:
    """Trains `model` with the mean log loss over the targets of every global batch.

    The loss of a rank is the sum over its targets divided by the weight of the whole global batch, so gradients do not
    depend on how many ranks share it. After an epoch the model is scored by `validate`; the weights of the best epoch
    are what `run` leaves in the model. The learning rate falls linearly to zero over the planned epochs.

    Args:
        model: Maps (batch, step) to logits; only its parameters that require a gradient are trained.
        optimizer: Over those parameters.
        windows: What is trained on.
        validate: Larger is better; called on all ranks at the same time.
        schedule: Length, batch and patience.
        journal: Written by rank 0.
        checkpoints: Directory of the resumable state, None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        windows: UserWindows,
        validate: Callable[[], float],
        schedule: Schedule,
        *,
        journal: Journal | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.windows = windows
        self.validate = validate
        self.schedule = schedule
        self.journal = journal if rank() == 0 else None
        self.checkpoints = checkpoints
        self.progress = Progress()
        self._best: dict[str, Tensor] = {}

    def run(self) -> Progress:
        """Trains until the epochs or the patience are used up and puts the best weights back."""
        self._resume()
        while self.progress.epoch < self.schedule.epochs and not self._given_up():
            loss = self._epoch()
            self.model.eval()
            score = self.validate()
            self.progress.history.append(score)
            if score > self.progress.best:
                self.progress.best, self.progress.best_epoch = score, self.progress.epoch
                self._best = _trained_state(self.model)
            self.progress.epoch += 1
            self._write(loss, score)
            self._save()
        if self._best:
            self.model.load_state_dict(self._best, strict=False)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        return self.progress

    def _epoch(self) -> float:
        self.model.train()
        started, total, weights = time.perf_counter(), torch.zeros((), device=device()), 0.0
        schedule, progress = self.schedule, self.progress
        gradients = GradientSum(weight for group in self.optimizer.param_groups for weight in group["params"])
        batches = self.windows.epoch(
            schedule.seed,
            progress.epoch,
            windows_per_step=schedule.windows_per_step,
            rank=rank(),
            world=world_size(),
        )
        following = next(batches, None)
        while following is not None:
            batch, weight = following
            loss = _loss_sum(self.model, batch.to(device()), progress.step) / weight
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients.start()
            following = next(batches, None)
            gradients.finish()
            self._set_rate()
            self.optimizer.step()
            total += loss.detach() * weight
            weights += weight
            progress.step += 1
        progress.rows += self.windows.num_targets
        progress.seconds += time.perf_counter() - started
        return sum_over_ranks(float(total)) / max(weights, 1e-9)

    def _set_rate(self) -> None:
        steps = -(-len(self.windows) // self.schedule.windows_per_step) * self.schedule.epochs
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * max(1 - self.progress.step / steps, 0.0)

    def _given_up(self) -> bool:
        return self.progress.epoch - 1 - self.progress.best_epoch >= self.schedule.patience

    def _write(self, loss: float, score: float) -> None:
        if self.journal is not None:
            done = self.progress.epoch
            self.journal.write(
                done,
                done if self._given_up() else self.schedule.epochs,
                loss=round(loss, 5),
                valid_gauc=round(score, 5),
                rows_per_second=round(self.progress.rows_per_second),
            )

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        if rank() == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            draft = self.checkpoints / "draft.pt"
            state = {
                "schedule": vars(self.schedule),
                "progress": vars(self.progress),
                "model": _trained_state(self.model),
                "best": self._best,
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, draft)
            draft.replace(self.checkpoints / "last.pt")
        barrier()

    def _resume(self) -> None:
        """Goes on after the last finished epoch, if it was trained under the same schedule."""
        if self.checkpoints is None or not (self.checkpoints / "last.pt").is_file():
            return
        state = torch.load(self.checkpoints / "last.pt", map_location=device(), weights_only=True)
        if state["schedule"] != vars(self.schedule):
            return
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self._best = state["best"]


def _loss_sum(model: nn.Module, batch: RankBatch, step: int) -> Tensor:
    logits = model(batch, step)
    losses = F.binary_cross_entropy_with_logits(logits, batch.label, reduction="none")
    return (losses * batch.weight).sum()


def _trained_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters that are trained; frozen ones and buffers do not change."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def sum_over_ranks(value: float) -> float:
    """The sum of a number over all ranks."""
    if world_size() == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64, device=device())
    dist.all_reduce(box)
    return float(box)


def slot_scorer(model: Callable[[RankBatch, Tensor], Tensor], table: Tensor) -> Scorer:
    """Scores every target by the vector that a table `[V, s]` puts into its slot, on the table's device.

    Args:
        model: (batch, slots `[B, T, s]`) to click logits `[B, T]`; where the table is.
        table: By item index.
    """

    def score(batch: RankBatch, step: int | None) -> Tensor:
        there = batch.to(table.device)
        return model(there, table[there.target_idx])

    return score


@torch.no_grad()
def score_rows(scorer: Scorer, windows: UserWindows, *, windows_per_step: int = 128) -> npt.NDArray[np.float32]:
    """Logits of all targets of `windows` in the order of `windows.rows`; the ranks share the work."""
    rows = windows.rows
    scores = torch.zeros(len(rows))
    for batch in windows.sweep(windows_per_step=windows_per_step, rank=rank(), world=world_size()):
        logits = scorer(batch.to(device()), None)
        counts = batch.weight > 0
        where = np.searchsorted(rows, batch.row[counts].numpy())
        scores[torch.from_numpy(where)] = logits.cpu()[counts]
    if world_size() > 1:
        scores = scores.to(device())
        dist.all_reduce(scores)
    return scores.cpu().numpy()


def gauc_of(
    sequences: EventSequences,
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    gauc: Gauc,
    *,
    among: npt.NDArray[np.bool_],
) -> float:
    """GAUC of the scores of those of `rows` that `among` marks."""
    rows = rows[among]
    return gauc(users_of(sequences, rows), np.asarray(sequences.label)[rows], scores[among])
