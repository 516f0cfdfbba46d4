"""The contrastive trainer of every method: InfoNCE over pairs of anything, on all ranks, with resume.

A pair is a query and an item that belong together: image and text of one item, two items that a user chose in turn, a
search and what was bought. Step `t` of epoch `e` trains on rows `[t*B, (t+1)*B)` of the permutation drawn from
(seed, e), split into equal shares for the ranks. Encoded rows are gathered with their gradient, and every rank computes
the loss of its own rows against those of all ranks, so neither loss nor gradient depends on the number of ranks.

Legend: `P` pairs, `B` pairs of a step, `b` pairs of a rank, `k` width, `M` masks.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coldstart.config import MetricsLog, UserError
from coldstart.config.recipe import Contrastive
from coldstart.data.streaming import Transform
from coldstart.metrics.retrieval import alignment, retrieval_metrics
from coldstart.modules.info_nce import Targets, Temperature, pair_info_nce
from coldstart.modules.negative_queue import NegativeQueue, update_momentum
from coldstart.training.ctr_trainer import sum_over_ranks
from coldstart.training.distributed import (
    all_gather,
    all_gather_with_gradient,
    barrier,
    device,
    rank,
    world_size,
)
from coldstart.training.gradients import GradientSum
from coldstart.training.resume import load_resumable
from coldstart.training.retrieval_curve import best_epoch

Ints = NDArray[np.int64]
Inputs = Mapping[str, Tensor]
"""What a model reads of some pairs."""
Stream = Callable[[Ints, int], Iterator[Inputs]]
"""Maps (pair numbers, number per batch) to the inputs of batches of exactly that size, in that order."""
ItemStream = Callable[[Ints, Transform, int], Iterator[dict[str, NDArray[Any]]]]
"""Maps (item indices, transform, batch size) to batches of exactly that size, in that order."""
TOP_K = (1, 10, 30)
"""Hit rates of the retrieval; the last one is SaviorRec's (item to item, on behavior pairs)."""
MAX_HELD_OUT = 4096
"""Held-out pairs that measure retrieval."""
_NOTHING_LEARNED = "no epoch retrieves held-out pairs better than the weights before training, which are kept"


class PairModel(nn.Module, ABC):
    """Encodes queries and items of pairs, on one or several levels, such as image, text and both.

    Attributes:
        width: `k`.
        levels: Level -> its weight in the loss. The last one chooses the best epoch.
    """

    width: int
    levels: Mapping[str, float]

    @abstractmethod
    def forward(self, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
        """Level -> vectors of queries and of items, `[b, k]` each, of unit norm."""

    @abstractmethod
    def encode_items(self, inputs: Inputs) -> dict[str, Tensor]:
        """Level -> vectors of the items alone; what the momentum copy computes."""


@dataclass(frozen=True)
class Pairs:
    """Pairs to train on or to measure.

    Attributes:
        query_groups: `[P, M]` int64. The item of another pair is no negative of a query if any of its numbers equals
            the query's number in the same column.
        item_groups: `[P, M]` int64. The first column is the item itself.
        stream: Source of inputs.
        weights: `[P]` weights in the loss; None for 1.
    """

    query_groups: Ints
    item_groups: Ints
    stream: Stream
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.item_groups)


@dataclass(frozen=True)
class ContrastiveContext:
    """What does not change the result, and the seed.

    Attributes:
        seed: For order and dropout.
        metrics_log: Receives one line per step; None for none.
        checkpoints: Directory of the resumable state, shared by all ranks; None to not save it.
        key: Digest of everything that the result depends on; another key is not resumed.
    """

    seed: int
    metrics_log: MetricsLog | None = None
    checkpoints: Path | None = None
    key: str = ""


class _Learner(nn.Module):
    """Everything that a checkpoint holds of a training besides the optimizer."""

    def __init__(self, model: PairModel, settings: Contrastive, masks: int) -> None:
        super().__init__()
        self.model = model
        self.temperature = Temperature(settings.temperature, learned=settings.learn_temperature)
        size = settings.queue_batches * settings.batch
        self.queues = nn.ModuleDict({level: NegativeQueue(size, model.width, masks) for level in model.levels})
        self.momentum = copy.deepcopy(model).requires_grad_(False).eval() if size else None

    def forward(self, inputs: Inputs) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
        """The vectors of each level, and the temperature."""
        return self.model(inputs), self.temperature()

    def train(self, mode: bool = True) -> Self:
        """Switches the mode of all but the momentum copy, which uses no dropout."""
        super().train(mode)
        if self.momentum is not None:
            self.momentum.eval()
        return self

    @torch.no_grad()
    def remember(self, inputs: Inputs, groups: Tensor, momentum: float) -> None:
        """Moves the momentum copy, and adds the items of the step on all ranks, with groups `[B, M]`, to the queues."""
        if self.momentum is None:
            return
        update_momentum(self.momentum, self.model, momentum)
        for level, vectors in self.momentum.encode_items(inputs).items():
            self.queue(level).push(all_gather(vectors.float()), groups)

    def queue(self, level: str) -> NegativeQueue:
        """The queue of a level."""
        found = self.queues[level]
        assert isinstance(found, NegativeQueue)
        return found


class ContrastiveTrainer:
    """Trains a `PairModel`; call it on all ranks.

    Args:
        model: On this rank's device, equal on all ranks. Its parameters that require a gradient are trained.
        train: Pairs to train on.
        heldout: Pairs that measure retrieval after each epoch; may be empty.
        settings: Batch, negatives and optimizer.
        context: Seed, metrics log and checkpoints; rank 0 writes both.

    Raises:
        UserError: there are fewer pairs than a batch, fewer than the queue holds, or the ranks cannot share a batch.
    """

    def __init__(
        self, model: PairModel, train: Pairs, heldout: Pairs, settings: Contrastive, context: ContrastiveContext
    ) -> None:
        _check_sizes(len(train), settings)
        self.model, self.train, self.heldout = model, train, heldout
        self.settings, self.context = settings, context
        self.metrics_log = context.metrics_log if rank() == 0 else None
        self.learner = _Learner(model, settings, train.item_groups.shape[1]).to(device())
        self.weights = [weight for weight in self.learner.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.share = settings.batch // world_size()
        self.steps_per_epoch = len(train) // settings.batch
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.step, self._best_state = 0, dict[str, Tensor]()
        self.curve: list[dict[str, float]] = []

    def run(self) -> list[dict[str, float]]:
        """Trains to the last step, then restores the weights of the best epoch.

        Returns:
            Retrieval metrics before training and after each epoch; empty dictionaries without held-out pairs.

        Raises:
            UserError: a loss is not finite; the newest checkpoint is older.
        """
        if not self._resume():
            self._finish_epoch({})
        gradients = GradientSum(self.weights)
        order = self._order()
        batches = self.train.stream(order[:, rank()].ravel(), self.share)
        for pairs in order.reshape(len(order), self.settings.batch):
            self.learner.train()
            metrics = self._take_step(next(batches), pairs, gradients)
            self.step += 1
            if self.step % self.steps_per_epoch == 0:
                self._finish_epoch(metrics)
                self._save()
                continue
            self._log(metrics)
            if self.step % self.settings.checkpoint_every == 0:
                self._save()
        if self._best_state:
            self.model.load_state_dict(self._best_state)
        if self.metrics_log is not None and self.total_steps and self.curve[0] and not best_epoch(self.curve):
            self.metrics_log.write(self.step, self.total_steps, note=_NOTHING_LEARNED)
        self.model.eval()
        return self.curve

    def _take_step(self, inputs: Inputs, pairs: Ints, gradients: GradientSum) -> dict[str, float]:
        """One optimizer step on this rank's share of pairs `[B]`; returns metrics over all ranks."""
        torch.manual_seed(hash((self.context.seed, self.step, rank())))
        inputs = {name: value.to(device(), non_blocking=True) for name, value in inputs.items()}
        groups = [torch.from_numpy(of[pairs]).to(device()) for of in (self.train.query_groups, self.train.item_groups)]
        levels, temperature = self.learner(inputs)
        loss = self._loss(levels, temperature, (groups[0], groups[1]), pairs)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.start()
        gradients.finish()
        norm = nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm)
        metrics = {
            "loss": sum_over_ranks(float(loss.detach())),
            "temperature": float(temperature.detach()),
            "gradient_norm": float(norm),
        }
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name.replace('_', ' ')} of step {self.step + 1} is not finite; lower the learning_rate "
                    f"{self.settings.learning_rate:g}, and check the images of the items"
                )
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._schedule()
        self.optimizer.step()
        self.learner.remember(inputs, groups[1], self.settings.momentum)
        return metrics

    def _loss(
        self,
        levels: Mapping[str, tuple[Tensor, Tensor]],
        temperature: Tensor,
        groups: tuple[Tensor, Tensor],
        pairs: Ints,
    ) -> Tensor:
        """This rank's summand of the loss: the sum over all ranks is the weighted mean over the step's pairs."""
        weights = torch.ones(len(pairs)) if self.train.weights is None else torch.from_numpy(self.train.weights[pairs])
        weights = (weights / weights.sum()).to(device())
        own = slice(rank() * self.share, (rank() + 1) * self.share)
        of_queries, of_items = groups
        # One exchange for all levels and both sides.
        gathered = all_gather_with_gradient(torch.stack([side for sides in levels.values() for side in sides], dim=1))
        total = torch.zeros((), device=device())
        for place, (level, (queries, items)) in enumerate(levels.items()):
            all_queries, all_items = gathered[:, 2 * place], gathered[:, 2 * place + 1]
            old_rows, old_groups = self.learner.queue(level).negatives()
            candidates = Targets(torch.cat([all_items, old_rows]), torch.cat([of_items, old_groups]))
            losses = pair_info_nce(queries, Targets(items, of_queries[own]), candidates, temperature=temperature)
            if self.settings.both_ways:
                positives, others = Targets(queries, of_items[own]), Targets(all_queries, of_queries)
                losses = (losses + pair_info_nce(items, positives, others, temperature=temperature)) / 2
            total = total + self.model.levels[level] * (losses * weights[own]).sum()
        return total

    def _schedule(self) -> float:
        """Factor of the learning rate: linear warm-up, then cosine decay."""
        warmup = round(self.settings.warmup_ratio * self.total_steps)
        if self.step < warmup:
            return (self.step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / max(self.total_steps - warmup, 1)))

    def _order(self) -> Ints:
        """Pair numbers `[steps, ranks, b]` from the current step to the end."""
        first = self.step // self.steps_per_epoch
        used = self.steps_per_epoch * self.settings.batch
        epochs = [
            np.random.default_rng((self.context.seed, epoch)).permutation(len(self.train))[:used]
            for epoch in range(first, self.settings.epochs)
        ]
        rest = np.concatenate([*epochs, np.empty(0, np.int64)])[
            self.step % self.steps_per_epoch * self.settings.batch :
        ]
        return rest.astype(np.int64).reshape(-1, world_size(), self.share)

    def _finish_epoch(self, metrics: dict[str, float]) -> None:
        """Measures retrieval, logs it, and keeps the weights if they are the best so far."""
        measured = self._measure()
        self.curve.append(measured)
        if best_epoch(self.curve) == len(self.curve) - 1:
            self._best_state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self._log(metrics | measured)

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        """`<level>_<metric>` of the held-out pairs; the candidates are their distinct items."""
        count = min(len(self.heldout), MAX_HELD_OUT)
        if not count:
            return {}
        self.learner.eval()
        share = -(-count // world_size())
        own = np.resize(np.arange(count), share * world_size())[rank() * share :][:share]
        parts: list[dict[str, tuple[Tensor, Tensor]]] = []
        for inputs in self.heldout.stream(own, self.share):
            parts.append(self.model({name: value.to(device()) for name, value in inputs.items()}))
        _, first, place = np.unique(self.heldout.item_groups[:count, 0], return_index=True, return_inverse=True)
        positives = torch.from_numpy(place.reshape(-1)).to(device())
        found: dict[str, float] = {}
        for level in self.model.levels:
            sides = (torch.cat([part[level][side] for part in parts]) for side in (0, 1))
            queries, items = (all_gather(side.float())[:count] for side in sides)
            nearest = items[torch.from_numpy(first).to(device())]
            metrics = retrieval_metrics(queries, positives, nearest, top_k=TOP_K)
            metrics["alignment"] = alignment(queries, items)
            found |= {f"{level}_{name}": value for name, value in metrics.items()}
        return found

    def _log(self, metrics: Mapping[str, float]) -> None:
        if self.metrics_log is not None:
            self.metrics_log.write(self.step, self.total_steps, **{name: round(x, 6) for name, x in metrics.items()})

    def _save(self) -> None:
        if self.context.checkpoints is None:
            return
        if rank() == 0:
            self.context.checkpoints.mkdir(parents=True, exist_ok=True)
            draft = self.context.checkpoints / "draft.pt"
            torch.save(
                {
                    "key": self.context.key,
                    "step": self.step,
                    "curve": self.curve,
                    "learner": self.learner.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "best_state": self._best_state,
                },
                draft,
            )
            draft.replace(self.context.checkpoints / "last.pt")
        barrier()

    def _resume(self) -> bool:
        """Continues from the newest checkpoint of the same key, with any number of ranks; returns whether it did."""
        path = None if self.context.checkpoints is None else self.context.checkpoints / "last.pt"
        saved = load_resumable(path, lambda state: state["step"] if state["key"] == self.context.key else None)
        if saved is None:
            return False
        self.learner.load_state_dict(saved["learner"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.curve = saved["step"], saved["curve"]
        self._best_state = saved["best_state"]
        if self.metrics_log is not None:
            self.metrics_log.write(self.step, self.total_steps, note=f"continues after step {self.step}")
        return True


def _check_sizes(pairs: int, settings: Contrastive) -> None:
    if settings.batch % world_size():
        raise UserError(
            f"batch {settings.batch} is not divisible by {world_size()} ranks; choose a multiple of cluster.workers"
        )
    if settings.batch > pairs:
        raise UserError(f"batch {settings.batch} exceeds the {pairs} training pairs; lower it")
    if settings.queue_batches * settings.batch > pairs:
        raise UserError(
            f"queue_batches {settings.queue_batches} x batch {settings.batch} = "
            f"{settings.queue_batches * settings.batch} negatives exceed the {pairs} training pairs, so the queue "
            f"would hold pairs more than once; lower queue_batches to at most {pairs // settings.batch}"
        )
