"""The click trainer of every scorer: epochs over user windows on all ranks, early stopping, resume."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.config import MetricsLog
from coldstart.data.batches import EventSequences, RankBatch, UserWindows, users_of
from coldstart.data.item_table import ItemTable
from coldstart.rankers.scorer import Scorer
from coldstart.training.distributed import barrier, device, rank, world_size
from coldstart.training.gradients import GradientSum
from coldstart.training.resume import load_resumable

Gauc = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], float]
"""Maps user, label and score of each row to the mean AUC over users."""


Score = Callable[[RankBatch], Tensor]
"""Maps a batch to click logits `[B, T]`."""
Augment = Callable[[RankBatch, int], RankBatch]
"""Maps a training batch and the global step to the batch that is trained on, such as one with dropped IDs."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Length, batch size, early stopping and arithmetic of a training."""

    epochs: int
    patience: int
    windows_per_step: int
    seed: int
    precision: str = "float32"
    """Type of matrix products in training steps; weights, optimizer and scoring stay float32."""


@dataclass(frozen=True)
class TrainingRows:
    """What a scorer trains on.

    Attributes:
        windows: User windows with the targets.
        items: Item table that the scorer reads.
        augment: Changes each training batch; None for no change.
    """

    windows: UserWindows
    items: ItemTable
    augment: Augment | None = None


@dataclass(kw_only=True)
class TrainerState:
    """State of a training run: everything except weights that a resumed run needs."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    rows: int = 0
    seconds: float = 0.0
    history: list[float] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        """Training targets per second, without the time of validation."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def summary(self) -> dict[str, Any]:
        """What the manifest of a trained artifact says about its training."""
        return {
            "valid_gauc": round(self.best, 5),
            "epochs": self.epoch,
            "best_epoch": self.best_epoch + 1,
            "rows_per_second": round(self.rows_per_second),
        }


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Arguments that all click trainings share.

    Attributes:
        seed: For weights, order, dropout and dropped IDs.
        gauc: Validation metric.
        metrics_log: Receives one line per epoch.
        checkpoints: Directory of the resumable state; None to not save it.
    """

    seed: int
    gauc: Gauc
    metrics_log: MetricsLog | None = None
    checkpoints: Path | None = None


class CTRTrainer:
    """Trains a scorer with the mean log loss over the targets of every global batch.

    The loss of a rank is the sum over its targets divided by the weight of the whole global batch, so gradients do not
    depend on the number of ranks. `validate` scores the model after each epoch, and `run` restores the weights of the
    best epoch. The learning rate decreases linearly to zero over the planned epochs.

    Args:
        scorer: Its parameters that require a gradient are trained.
        optimizer: Over those parameters.
        rows: Training data.
        validate: Returns the validation score, larger is better; called on all ranks at the same time.
        config: Length, batch size and patience.
        context: Metrics log and checkpoints; rank 0 writes both.
    """

    def __init__(
        self,
        scorer: Scorer,
        optimizer: torch.optim.Optimizer,
        rows: TrainingRows,
        validate: Callable[[], float],
        config: TrainerConfig,
        context: TrainingContext,
    ) -> None:
        self.scorer = scorer
        self.optimizer = optimizer
        self.rows = rows
        self.validate = validate
        self.config = config
        self.metrics_log = context.metrics_log if rank() == 0 else None
        self.checkpoints = context.checkpoints
        self.state = TrainerState()
        self._best: dict[str, Tensor] = {}

    def run(self) -> TrainerState:
        """Trains until the last epoch or until patience runs out, then restores the best weights."""
        self._resume()
        while self.state.epoch < self.config.epochs and not self._out_of_patience():
            loss = self._epoch()
            self.scorer.eval()
            score = self.validate()
            self.state.history.append(score)
            if score > self.state.best:
                self.state.best, self.state.best_epoch = score, self.state.epoch
                self._best = _trained_state(self.scorer)
            self.state.epoch += 1
            self._log(loss, score)
            self._save()
        if self._best:
            self.scorer.load_state_dict(self._best, strict=False)
        self.optimizer.zero_grad(set_to_none=True)
        self.scorer.eval()
        return self.state

    def _epoch(self) -> float:
        self.scorer.train()
        started, total, weights = time.perf_counter(), torch.zeros((), device=device()), 0.0
        config, state = self.config, self.state
        gradients = GradientSum(weight for group in self.optimizer.param_groups for weight in group["params"])
        batches = self.rows.windows.epoch(
            config.seed,
            state.epoch,
            windows_per_step=config.windows_per_step,
            rank=rank(),
            world=world_size(),
        )
        upcoming = next(batches, None)
        while upcoming is not None:
            batch, weight = upcoming
            loss = self._loss_sum(batch.to(device())) / weight
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients.start()
            upcoming = next(batches, None)
            gradients.finish()
            self._set_learning_rate()
            self.optimizer.step()
            total += loss.detach() * weight
            weights += weight
            state.step += 1
        state.rows += self.rows.windows.num_targets
        state.seconds += time.perf_counter() - started
        return sum_over_ranks(float(total)) / max(weights, 1e-9)

    def _loss_sum(self, batch: RankBatch) -> Tensor:
        if self.rows.augment is not None:
            batch = self.rows.augment(batch, self.state.step)
        dtype = getattr(torch, self.config.precision)
        with torch.autocast(batch.target_idx.device.type, dtype, enabled=dtype is not torch.float32):
            logits = self.scorer(batch, self.rows.items)
        losses = F.binary_cross_entropy_with_logits(logits.float(), batch.label, reduction="none")
        return (losses * batch.weight).sum()

    def _set_learning_rate(self) -> None:
        steps = -(-len(self.rows.windows) // self.config.windows_per_step) * self.config.epochs
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * max(1 - self.state.step / steps, 0.0)

    def _out_of_patience(self) -> bool:
        return self.state.epoch - 1 - self.state.best_epoch >= self.config.patience

    def _log(self, loss: float, score: float) -> None:
        if self.metrics_log is not None:
            done = self.state.epoch
            self.metrics_log.write(
                done,
                done if self._out_of_patience() else self.config.epochs,
                loss=round(loss, 5),
                valid_gauc=round(score, 5),
                rows_per_second=round(self.state.rows_per_second),
            )

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        if rank() == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            draft = self.checkpoints / "draft.pt"
            state = {
                "config": vars(self.config),
                "state": vars(self.state),
                "model": _trained_state(self.scorer),
                "best": self._best,
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, draft)
            draft.replace(self.checkpoints / "last.pt")
        barrier()

    def _resume(self) -> None:
        """Continues after the last finished epoch, if it was trained with the same configuration."""
        path = None if self.checkpoints is None else self.checkpoints / "last.pt"
        saved = load_resumable(path, self._identify)
        if saved is None:
            return
        self.scorer.load_state_dict(saved["model"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = TrainerState(**saved["state"])
        self._best = saved["best"]
        if self.metrics_log is not None:
            self.metrics_log.write(
                self.state.epoch, self.config.epochs, note=f"continues after epoch {self.state.epoch}"
            )

    def _identify(self, saved: dict[str, Any]) -> int | None:
        """Its step, if it was trained with the same configuration."""
        return int(saved["state"]["step"]) if saved["config"] == vars(self.config) else None


def _trained_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable parameters; frozen ones and buffers do not change."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def sum_over_ranks(value: float) -> float:
    """The sum of a number over all ranks."""
    if world_size() == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64, device=device())
    dist.all_reduce(total)
    return float(total)


def slot_score(model: Callable[[RankBatch, Tensor], Tensor], table: Tensor) -> Score:
    """Scores with the rows of a table in the item slots, on the table's device.

    Args:
        model: Maps (batch, slots `[B, T, s]`) to click logits `[B, T]`; on the table's device.
        table: `[V, s]` slots by item index.
    """

    def score(batch: RankBatch) -> Tensor:
        batch = batch.to(table.device)
        return model(batch, table[batch.target_row])

    return score


@torch.no_grad()
def score_targets(score: Score, windows: UserWindows, *, windows_per_step: int = 128) -> npt.NDArray[np.float32]:
    """Logits of all targets of `windows`, in the order of `windows.event_indices`; the ranks share the work."""
    rows = windows.event_indices
    scores = torch.zeros(len(rows))
    for batch in windows.iter_eval(windows_per_step=windows_per_step, rank=rank(), world=world_size()):
        logits = score(batch.to(device()))
        counts = batch.weight > 0
        index = np.searchsorted(rows, batch.event_index[counts].numpy())
        scores[torch.from_numpy(index)] = logits.cpu()[counts]
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
    """GAUC of the rows that `among` marks."""
    rows = rows[among]
    return gauc(users_of(sequences, rows), np.asarray(sequences.label)[rows], scores[among])
