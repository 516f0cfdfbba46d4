"""Coarse alignment on each rank: stream, InfoNCE against frozen ID rows, checkpoint, measure, keep the best.

Step `t` of epoch `e` trains on rows `[t*B, (t+1)*B)` of the permutation drawn from (seed, e), cut into equal shares for
the ranks and those into passes of a micro-batch. Every pass tells its items from the same candidates, those of the
whole step, so that neither cut changes the gradient. What is read and drawn at a step depends on its number alone: a
resumed run continues as if it had not been interrupted.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldstart.alignment.contrastive import CoarseModel, Targets, Temperature, info_nce
from coldstart.alignment.layer_groups import group_layers
from coldstart.alignment.negatives import NegativeSampler
from coldstart.alignment.quality import retrieval
from coldstart.config import Journal, UserError
from coldstart.config.recipe import Coarse, ContentSwitch
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.streaming import Transform
from coldstart.encoders import Encoder
from coldstart.training.checkpoint import Checkpoints
from coldstart.training.deepspeed_engine import (
    deepspeed_config,
    keep_partitioned,
    start_engine,
    take_step,
    whole_state,
)
from coldstart.training.ranks import barrier, device, gather, rank, world_size
from coldstart.training.throughput import Meter

Arrays = dict[str, NDArray[Any]]
Stream = Callable[[NDArray[np.int64], Transform, int], Iterator[Arrays]]
"""(item indices, transform, batch size) -> batches of exactly that size, in that order."""

GROUPING_SAMPLE = 512
MOST_CANDIDATES = 10_000
"""ID rows among which held-out items look for their own."""


class Diverged(UserError):  # noqa: N818 - says what happened
    """The loss or its gradient is no longer a number.

    Attributes:
        step: From 1.
        items: Indices of the items whose content gave it, or of the whole batch if no single one did.
    """

    def __init__(self, step: int, what: str, items: NDArray[np.int64]) -> None:
        """`what` was found not to be finite."""
        super().__init__(f"{what} of step {step} is not a finite number (item indices {items[:10].tolist()})")
        self.step, self.what, self.items = step, what, items

    def __reduce__(self) -> tuple[type["Diverged"], tuple[int, str, NDArray[np.int64]]]:
        """Lets it travel between processes."""
        return Diverged, (self.step, self.what, self.items)


@dataclass(frozen=True, kw_only=True)
class CoarseTask:
    """All that a rank needs to know.

    Attributes:
        mllm: Checkpoint directory or hub name.
        encoder: What is read and trained.
        content: Modalities shown.
        coarse: Objective and schedule.
        seed: Of new weights, order and dropout.
        train: `[M]` item indices that are trained on.
        heldout: Mature items kept out of the loss, to measure retrieval.
        groups: `[V]` by item index; items of one group show the same and are no negatives of each other.
        events: `[V]` train events by item index.
        journal: Progress file.
        checkpoints: Directory of resumable state.
        result: Directory that the finished encoder is written to.
        key: Digest of everything the result depends on.
    """

    mllm: str
    encoder: EncoderSettings
    content: ContentSwitch
    coarse: Coarse
    seed: int
    train: NDArray[np.int64]
    heldout: NDArray[np.int64]
    groups: NDArray[np.int64]
    events: NDArray[np.integer[Any]]
    journal: Path
    checkpoints: Path
    result: Path
    key: str

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; what is left over waits for another permutation."""
        return len(self.train) // self.coarse.batch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * self.coarse.epochs


def train_coarse(
    task: CoarseTask, id_table: Tensor, stream: Stream, told_to_leave: Callable[[], bool] = lambda: False
) -> bool:
    """Trains on this rank; at the end rank 0 has written the encoder to `task.result`.

    Another number of ranks may take up what one has left: the global batch, its order and its candidates are the same.

    Args:
        task: The same on all ranks.
        id_table: Frozen ID rows `[V, d]` of the ranker.
        stream: Where prepared items come from.
        told_to_leave: Asked after every step; once it says so on any rank, all save a checkpoint and return.

    Returns:
        Whether the training is done; if not, calling it again goes on.

    Raises:
        Diverged: on all ranks; the newest checkpoint is from before it.
    """
    config = deepspeed_config(task.coarse, dtype=task.encoder.dtype)
    partitioned = keep_partitioned(config)
    encoder = Encoder.create(task.mllm, task.encoder, width=id_table.shape[1], content=task.content, seed=task.seed)
    model = CoarseModel(encoder, Temperature(task.coarse.temperature, learnt=task.coarse.learn_temperature))
    engine = start_engine(model, task.coarse, config, total_steps=task.total_steps)
    loop = _Loop(task, engine, encoder, torch.nn.functional.normalize(id_table.float(), dim=-1).to(device()), stream)
    finished = loop.run(told_to_leave)
    del partitioned
    if finished and rank() == 0:
        _finish(task, encoder, loop.best_state(), stream)
    barrier()
    return finished


class _Loop:
    def __init__(self, task: CoarseTask, engine: Any, encoder: Encoder, rows: Tensor, stream: Stream) -> None:
        self.task, self.engine, self.encoder, self.rows, self.stream = task, engine, encoder, rows, stream
        self.journal = Journal(task.journal)
        self.checkpoints = Checkpoints(
            task.checkpoints, task.key, background=task.coarse.checkpoint_async, tell=self._tell
        )
        self.done = 0
        self.meter = Meter(encoder)
        self.share = task.coarse.batch // world_size()
        self.negatives = NegativeSampler(
            task.coarse.negatives, task.train, task.events, batch=task.coarse.batch, seed=task.seed
        )
        self.groups = torch.as_tensor(task.groups, device=device())
        log_q = self.negatives.log_q
        self.log_q = None if log_q is None else torch.as_tensor(log_q, dtype=torch.float32, device=device())
        self.best = -1.0
        self.heldout = self._prepare_heldout()

    def run(self, told_to_leave: Callable[[], bool]) -> bool:
        """From the newest checkpoint to the last step, or to the one after which a rank is told to leave."""
        task = self.task
        found = self.checkpoints.load(self.engine)
        start = self.done = found["step"] if found else 0
        if found:
            self.best = found["facts"]["best"]
        order = self._order(start)
        batches = self.stream(order[:, rank()].ravel(), self.encoder.prompt.prepare, self.share)
        stalled: dict[str, float] = {}
        for step in range(start, task.total_steps):
            self.meter.start()
            batch = next(batches)
            self.meter.arrived()
            figures = self._step(step, dict(batch), order[step - start].ravel())
            figures |= self.meter.finish()
            done = self.done = step + 1
            if done % task.steps_per_epoch == 0:
                figures |= self._measure(done)
            if rank() == 0:
                self.journal.write(done, task.total_steps, **figures, **stalled)
            stalled, leave = {}, bool(gather(torch.tensor([told_to_leave()], device=device())).any())
            if done < task.total_steps and (leave or done % task.coarse.checkpoint_every == 0):
                stalled = {"checkpoint_stall": self.checkpoints.save(self.engine, done, best=self.best)}
            if leave and done < task.total_steps:
                self.checkpoints.settle()
                if rank() == 0:
                    self._tell(f"told to leave: saved after step {done}")
                return False
        self.checkpoints.settle()
        return True

    def _tell(self, note: str) -> None:
        self.journal.write(self.done, self.task.total_steps, note=note)

    def best_state(self) -> dict[str, Tensor]:
        """The whole state of the encoder at its best epoch."""
        return load_file(self.task.checkpoints / "best.safetensors")

    def _step(self, step: int, batch: Arrays, items: NDArray[np.int64]) -> dict[str, float]:
        """One optimizer step on this rank's share of the items `[B]` of all ranks; figures of the whole of it."""
        torch.manual_seed(hash((self.task.seed, step, rank())))
        item_idx = batch.pop("item_idx")
        batch = self._hide_words(batch, step)
        candidates = self._targets(self.negatives.candidates(step, items))
        losses = torch.zeros(self.share, device=device())
        norm, temperature = 0.0, torch.zeros(())
        lengths = self.encoder.prompt.lengths(batch)
        passes = cut_passes(lengths, self.task.coarse.micro(world_size()))
        self.meter.read(batch, lengths, passes)
        for rows in passes:
            inputs = self.encoder.inputs({name: column[rows] for name, column in batch.items()}, device())
            coarse, temperature = self.engine(inputs)
            loss = info_nce(coarse, self._targets(item_idx[rows]), candidates, temperature=temperature)
            self.engine.backward(loss.mean())
            losses[torch.as_tensor(rows, device=device())] = loss.detach()
            norm = take_step(self.engine)
        everyone = gather(losses)
        figures = {
            "loss": everyone.mean().item(),
            "gradient_norm": norm,
            "temperature": temperature.detach().item(),
        }
        for name in ("loss", "gradient_norm"):
            if not np.isfinite(figures[name]):
                self.checkpoints.settle()
                blamed = ~torch.isfinite(everyone).cpu().numpy()
                raise Diverged(step + 1, name.replace("_", " "), items[blamed] if blamed.any() else items)
        return figures

    def _targets(self, item_idx: NDArray[np.int64]) -> Targets:
        """ID rows of items."""
        index = torch.as_tensor(item_idx, device=device())
        return Targets(self.rows[index], self.groups[index], None if self.log_q is None else self.log_q[index])

    def _hide_words(self, batch: Arrays, step: int) -> Arrays:
        """Hides a share of the words, drawn for the rows of all ranks so that it does not depend on their number."""
        drawn = np.random.default_rng((self.task.seed, 2, step))
        draw = drawn.random((self.task.coarse.batch, self.encoder.prompt.max_text_tokens))
        hidden = draw < self.task.coarse.hidden_words
        return self.encoder.prompt.hide_words(batch, hidden[rank() * self.share :][: self.share])

    def _order(self, start: int) -> NDArray[np.int64]:
        """Item indices `[steps, ranks, share]` from step `start` to the end."""
        task = self.task
        epochs = range(start // task.steps_per_epoch, task.coarse.epochs)
        used = task.steps_per_epoch * task.coarse.batch
        orders = [np.random.default_rng((task.seed, epoch)).permutation(task.train)[:used] for epoch in epochs]
        rest = np.concatenate([*orders, np.empty(0, np.int64)])[start % task.steps_per_epoch * task.coarse.batch :]
        return rest.reshape(-1, world_size(), self.share)

    def _prepare_heldout(self) -> list[Arrays]:
        """This rank's share of the held-out items, padded so that all ranks run the same number of batches."""
        share = -(-len(self.task.heldout) // world_size())
        if not share:
            return []
        mine = np.resize(self.task.heldout, share * world_size()).reshape(world_size(), share)[rank()]
        return list(self.stream(mine, self.encoder.prompt.prepare, self.task.coarse.micro(world_size())))

    @torch.no_grad()
    def _measure(self, step: int) -> dict[str, float]:
        """Retrieval of held-out items' own ID rows; the best state so far is kept. Called by all ranks."""
        figures: dict[str, float] = {}
        if self.heldout:
            self.engine.eval()
            coarse = [self.engine(self.encoder.inputs(_without_index(batch), device()))[0] for batch in self.heldout]
            self.engine.train()
            everyone = gather(torch.cat(coarse))[: len(self.task.heldout)]
            figures = retrieval(everyone, *self._candidates_of_heldout())
        # The cosine to one's own row changes smoothly; ranks among thousands of rows, for some hundred items, do not.
        score = figures.get("mean_cosine", float(step))
        if score > self.best:
            self.best = score
            # A checkpoint that does not fit leaves no room for this either, until it is given up.
            self.checkpoints.settle()
            state = whole_state(self.encoder)
            if state is not None:
                self._keep_best(state)
        return figures

    def _keep_best(self, state: dict[str, Tensor]) -> None:
        """The result is made of this, so a run that cannot write it has to end."""
        best = self.task.checkpoints / "best.safetensors"
        draft = best.with_name(".best.draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(state, draft)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise UserError(
                f"the best encoder so far could not be written to {best} ({error}); free some space, the same command "
                "goes on from the last checkpoint"
            ) from error
        draft.replace(best)

    def _candidates_of_heldout(self) -> tuple[Tensor, Tensor]:
        """Where each held-out item's row stands among rows of mature items, and those rows `[C, d]`."""
        heldout, train = self.task.heldout, self.task.train
        others = max(0, MOST_CANDIDATES - len(heldout))
        if len(train) > others:
            train = np.random.default_rng((self.task.seed, 4)).choice(train, others, replace=False)
        shown = np.sort(np.concatenate([train, heldout]))
        own = torch.as_tensor(np.searchsorted(shown, heldout), device=device())
        return own, self.rows[torch.as_tensor(shown, device=device())]


def cut_passes(lengths: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cuts rows into passes of like length; which rows are read together changes no gradient.

    Args:
        lengths: `[B]` tokens of each row.
        size: Rows of a pass; a divisor of `B`.

    Returns:
        Row indices of each pass.
    """
    order = np.argsort(lengths, kind="stable") if size < len(lengths) else np.arange(len(lengths))
    return np.split(order, len(lengths) // size)


def _finish(task: CoarseTask, encoder: Encoder, state: dict[str, Tensor], stream: Stream) -> None:
    """Writes the encoder, loads it as everyone else will, and pins the layers that are read."""
    task.result.mkdir(parents=True, exist_ok=True)
    encoder.save(task.result, state=state)
    loaded = Encoder.load(task.result, device())
    chosen = np.random.default_rng(task.seed).permutation(task.train)[:GROUPING_SAMPLE]
    means = []
    with torch.no_grad():
        for batch in stream(chosen, loaded.prompt.prepare, task.coarse.batch):
            means.append(loaded.layer_means(loaded.inputs(_without_index(batch), device())).cpu())
    encoding = task.encoder
    groups = group_layers(torch.cat(means).numpy(), encoding.layer_groups, reading=encoding.group_reading)
    # Position 0 of the hidden states is the token embedding, so layer `n` stands at `n + 1`.
    about = json.loads((task.result / "encoder.json").read_text())
    about["layers"] = [[layer + 1 for layer in group] for group in groups]
    (task.result / "encoder.json").write_text(json.dumps(about, indent=2))


def _without_index(batch: Arrays) -> Arrays:
    return {name: rows for name, rows in batch.items() if name != "item_idx"}
