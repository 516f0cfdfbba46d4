"""Coarse alignment on each rank: InfoNCE against frozen ID rows, checkpoints, and evaluation after each epoch.

Step `t` of epoch `e` trains on rows `[t*B, (t+1)*B)` of the permutation drawn from (seed, e), split into equal shares
for the ranks and these into micro-batches. Every micro-batch uses the same candidates, those of the whole step, so that
the splits do not change the gradient. The data and random numbers of a step depend on its number only, so a resumed run
continues as if it had not been interrupted.
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

from coldstart.config import MetricsLog, UserError
from coldstart.config.recipe import Coarse, Modalities
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.streaming import Transform
from coldstart.encoders import Encoder
from coldstart.methods.idproxy.layer_groups import group_layers
from coldstart.metrics.retrieval import retrieval_metrics
from coldstart.modules.info_nce import CoarseModel, Targets, Temperature, info_nce
from coldstart.modules.negatives import NegativeSampler
from coldstart.training.checkpoint import Checkpoints
from coldstart.training.deepspeed_engine import (
    deepspeed_config,
    full_state_dict,
    start_engine,
    take_step,
    zero3_init_context,
)
from coldstart.training.distributed import all_gather, barrier, device, rank, world_size
from coldstart.training.throughput import ThroughputMeter

Arrays = dict[str, NDArray[Any]]
Stream = Callable[[NDArray[np.int64], Transform, int], Iterator[Arrays]]
"""Maps (item indices, transform, batch size) to batches of exactly that size, in that order."""

GROUPING_SAMPLE = 512
MAX_CANDIDATES = 10_000
"""ID rows among which the row of a held-out item is retrieved."""


class NonFiniteLossError(UserError):
    """The loss or the gradient norm is not finite.

    Attributes:
        step: Step number, from 1.
        quantity: "loss" or "gradient norm".
        items: Indices of the items with a non-finite loss, or of the whole batch if there are none.
    """

    def __init__(self, step: int, quantity: str, items: NDArray[np.int64]) -> None:
        """See the class."""
        super().__init__(f"{quantity} of step {step} is not finite (item indices {items[:10].tolist()})")
        self.step, self.quantity, self.items = step, quantity, items

    def __reduce__(self) -> tuple[type["NonFiniteLossError"], tuple[int, str, NDArray[np.int64]]]:
        """Makes the error picklable."""
        return NonFiniteLossError, (self.step, self.quantity, self.items)


@dataclass(frozen=True, kw_only=True)
class AlignmentJob:
    """All inputs of a coarse alignment that are the same on every rank, except the ID table.

    Attributes:
        mllm: Checkpoint directory or hub name.
        encoder: The recipe section `encoder`.
        content: Modalities of the prompt.
        coarse: The recipe section `coarse`.
        seed: For new weights, order and dropout.
        train: `[M]` indices of the training items.
        heldout: Indices of the mature items that only measure retrieval.
        groups: `[V]` by item index; items of one group have the same content and are never negatives of each other.
        events: `[V]` train events by item index.
        metrics_log: Progress file.
        checkpoints: Directory of the resumable state.
        result: Directory for the finished encoder.
        key: Digest of everything that the result depends on.
    """

    mllm: str
    encoder: EncoderSettings
    content: Modalities
    coarse: Coarse
    seed: int
    train: NDArray[np.int64]
    heldout: NDArray[np.int64]
    groups: NDArray[np.int64]
    events: NDArray[np.integer[Any]]
    metrics_log: Path
    checkpoints: Path
    result: Path
    key: str

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the remaining items are skipped until the next permutation."""
        return len(self.train) // self.coarse.batch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * self.coarse.epochs


def train_coarse(
    job: AlignmentJob, id_table: Tensor, stream: Stream, preemption_requested: Callable[[], bool] = lambda: False
) -> bool:
    """Trains on this rank; at the end rank 0 writes the encoder to `job.result`.

    A run may be resumed with another number of ranks: the global batch, its order and its candidates stay the same.

    Args:
        job: The same on all ranks.
        id_table: Frozen ID rows `[V, d]` of the ranker.
        stream: Source of prepared items.
        preemption_requested: Called after every step. If it returns true on any rank, all ranks save a checkpoint and
            return.

    Returns:
        Whether training is complete; if not, call it again to continue.

    Raises:
        NonFiniteLossError: on all ranks; the newest checkpoint is older than the failing step.
    """
    config = deepspeed_config(job.coarse, dtype=job.encoder.dtype)
    init_context = zero3_init_context(config)
    encoder = Encoder.create(job.mllm, job.encoder, width=id_table.shape[1], content=job.content, seed=job.seed)
    model = CoarseModel(encoder, Temperature(job.coarse.temperature, learned=job.coarse.learn_temperature))
    engine = start_engine(model, job.coarse, config, total_steps=job.total_steps)
    id_rows = torch.nn.functional.normalize(id_table.float(), dim=-1).to(device())
    trainer = _CoarseTrainer(job, engine, encoder, id_rows, stream)
    finished = trainer.run(preemption_requested)
    del init_context
    if finished and rank() == 0:
        _write_result(job, encoder, trainer.best_state(), stream)
    barrier()
    return finished


class _CoarseTrainer:
    def __init__(self, job: AlignmentJob, engine: Any, encoder: Encoder, id_rows: Tensor, stream: Stream) -> None:
        self.job, self.engine, self.encoder, self.id_rows, self.stream = job, engine, encoder, id_rows, stream
        self.metrics_log = MetricsLog(job.metrics_log)
        self.checkpoints = Checkpoints(
            job.checkpoints, job.key, background=job.coarse.checkpoint_async, on_warning=self._log_note
        )
        self.done = 0
        self.meter = ThroughputMeter(encoder)
        self.share = job.coarse.batch // world_size()
        self.negatives = NegativeSampler(
            job.coarse.negatives, job.train, job.events, batch=job.coarse.batch, seed=job.seed
        )
        self.groups = torch.as_tensor(job.groups, device=device())
        log_q = self.negatives.log_q
        self.log_q = None if log_q is None else torch.as_tensor(log_q, dtype=torch.float32, device=device())
        self.best = -1.0
        self.heldout = self._prepare_heldout()

    def run(self, preemption_requested: Callable[[], bool]) -> bool:
        """Trains from the newest checkpoint to the last step, or until preemption is requested on a rank."""
        job = self.job
        found = self.checkpoints.load(self.engine)
        start = self.done = found["step"] if found else 0
        if found:
            self.best = found["facts"]["best"]
            if rank() == 0:
                self._log_note(f"continues after step {start}")
        order = self._order(start)
        batches = self.stream(order[:, rank()].ravel(), self.encoder.prompt.prepare, self.share)
        stall: dict[str, float] = {}
        for step in range(start, job.total_steps):
            self.meter.start_step()
            batch = next(batches)
            self.meter.data_ready()
            metrics = self._step(step, dict(batch), order[step - start].ravel())
            metrics |= self.meter.end_step()
            done = self.done = step + 1
            if done % job.steps_per_epoch == 0:
                metrics |= self._evaluate(done)
            if rank() == 0:
                self.metrics_log.write(done, job.total_steps, **metrics, **stall)
            stall, preempted = {}, bool(all_gather(torch.tensor([preemption_requested()], device=device())).any())
            if done < job.total_steps and (preempted or done % job.coarse.checkpoint_every == 0):
                stall = {"checkpoint_stall": self.checkpoints.save(self.engine, done, best=self.best)}
            if preempted and done < job.total_steps:
                self.checkpoints.wait_for_writes()
                if rank() == 0:
                    self._log_note(f"preemption requested: saved a checkpoint after step {done}")
                return False
        self.checkpoints.wait_for_writes()
        return True

    def _log_note(self, note: str) -> None:
        self.metrics_log.write(self.done, self.job.total_steps, note=note)

    def best_state(self) -> dict[str, Tensor]:
        """The full state of the encoder after its best epoch."""
        return load_file(self.job.checkpoints / "best.safetensors")

    def _step(self, step: int, batch: Arrays, items: NDArray[np.int64]) -> dict[str, float]:
        """One optimizer step on this rank's share of the items `[B]` of all ranks; returns metrics over all ranks."""
        torch.manual_seed(hash((self.job.seed, step, rank())))
        item_idx = batch.pop("item_idx")
        batch = self._drop_text_tokens(batch, step)
        candidates = self._targets(self.negatives.candidates(step, items))
        losses = torch.zeros(self.share, device=device())
        norm, temperature = 0.0, torch.zeros(())
        lengths = self.encoder.prompt.lengths(batch)
        micro_batches = make_micro_batches(lengths, self.job.coarse.micro(world_size()))
        self.meter.count_step(batch, lengths, micro_batches)
        for rows in micro_batches:
            inputs = self.encoder.inputs({name: column[rows] for name, column in batch.items()}, device())
            coarse, temperature = self.engine(inputs)
            loss = info_nce(coarse, self._targets(item_idx[rows]), candidates, temperature=temperature)
            self.engine.backward(loss.mean())
            losses[torch.as_tensor(rows, device=device())] = loss.detach()
            norm = take_step(self.engine)
        all_losses = all_gather(losses)
        metrics = {
            "loss": all_losses.mean().item(),
            "gradient_norm": norm,
            "temperature": temperature.detach().item(),
        }
        for name in ("loss", "gradient_norm"):
            if not np.isfinite(metrics[name]):
                self.checkpoints.wait_for_writes()
                bad = ~torch.isfinite(all_losses).cpu().numpy()
                raise NonFiniteLossError(step + 1, name.replace("_", " "), items[bad] if bad.any() else items)
        return metrics

    def _targets(self, item_idx: NDArray[np.int64]) -> Targets:
        """Targets of the loss for items: ID rows, groups and log frequencies."""
        index = torch.as_tensor(item_idx, device=device())
        return Targets(self.id_rows[index], self.groups[index], None if self.log_q is None else self.log_q[index])

    def _drop_text_tokens(self, batch: Arrays, step: int) -> Arrays:
        """Token dropout, drawn for the rows of all ranks so that it does not depend on their number."""
        rng = np.random.default_rng((self.job.seed, 2, step))
        draw = rng.random((self.job.coarse.batch, self.encoder.prompt.max_text_tokens))
        dropped = draw < self.job.coarse.token_dropout
        return self.encoder.prompt.mask_text_tokens(batch, dropped[rank() * self.share :][: self.share])

    def _order(self, start: int) -> NDArray[np.int64]:
        """Item indices `[steps, ranks, share]` from step `start` to the end."""
        job = self.job
        epochs = range(start // job.steps_per_epoch, job.coarse.epochs)
        used = job.steps_per_epoch * job.coarse.batch
        orders = [np.random.default_rng((job.seed, epoch)).permutation(job.train)[:used] for epoch in epochs]
        rest = np.concatenate([*orders, np.empty(0, np.int64)])[start % job.steps_per_epoch * job.coarse.batch :]
        return rest.reshape(-1, world_size(), self.share)

    def _prepare_heldout(self) -> list[Arrays]:
        """This rank's share of the held-out items, padded so that all ranks have the same number of batches."""
        share = -(-len(self.job.heldout) // world_size())
        if not share:
            return []
        items = np.resize(self.job.heldout, share * world_size()).reshape(world_size(), share)[rank()]
        return list(self.stream(items, self.encoder.prompt.prepare, self.job.coarse.micro(world_size())))

    @torch.no_grad()
    def _evaluate(self, step: int) -> dict[str, float]:
        """Retrieval of held-out items' own ID rows; saves the state if it is the best so far. Called by all ranks."""
        metrics: dict[str, float] = {}
        if self.heldout:
            self.engine.eval()
            coarse = [self.engine(self.encoder.inputs(_without_index(batch), device()))[0] for batch in self.heldout]
            self.engine.train()
            all_coarse = all_gather(torch.cat(coarse))[: len(self.job.heldout)]
            metrics = retrieval_metrics(all_coarse, *self._candidates_of_heldout())
        # The cosine to an item's own row is smoother than the rank metrics of some hundred items.
        score = metrics.get("mean_cosine", float(step))
        if score > self.best:
            self.best = score
            # A checkpoint that does not fit on the disk leaves no room for the best state until it is removed.
            self.checkpoints.wait_for_writes()
            state = full_state_dict(self.encoder)
            if state is not None:
                self._save_best(state)
        return metrics

    def _save_best(self, state: dict[str, Tensor]) -> None:
        """Saves the state that becomes the result; the run fails if it cannot be written."""
        best = self.job.checkpoints / "best.safetensors"
        draft = best.with_name(".best.draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(state, draft)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise UserError(
                f"the best encoder could not be written to {best} ({error}); free disk space and run the same command "
                "again, it continues from the last checkpoint"
            ) from error
        draft.replace(best)

    def _candidates_of_heldout(self) -> tuple[Tensor, Tensor]:
        """Position of each held-out item's row among the candidates, and the candidate rows `[C, d]`."""
        heldout, train = self.job.heldout, self.job.train
        others = max(0, MAX_CANDIDATES - len(heldout))
        if len(train) > others:
            train = np.random.default_rng((self.job.seed, 4)).choice(train, others, replace=False)
        candidates = np.sort(np.concatenate([train, heldout]))
        own = torch.as_tensor(np.searchsorted(candidates, heldout), device=device())
        return own, self.id_rows[torch.as_tensor(candidates, device=device())]


def make_micro_batches(lengths: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Splits rows into micro-batches of similar length; the split does not change the gradient.

    Args:
        lengths: `[B]` tokens of each row.
        size: Rows of a micro-batch; a divisor of `B`.

    Returns:
        Row indices of each micro-batch.
    """
    order = np.argsort(lengths, kind="stable") if size < len(lengths) else np.arange(len(lengths))
    return np.split(order, len(lengths) // size)


def _write_result(job: AlignmentJob, encoder: Encoder, state: dict[str, Tensor], stream: Stream) -> None:
    """Writes the encoder, loads it again like any user of it, and fixes its layer groups."""
    job.result.mkdir(parents=True, exist_ok=True)
    encoder.save(job.result, state=state)
    loaded = Encoder.load(job.result, device())
    sample = np.random.default_rng(job.seed).permutation(job.train)[:GROUPING_SAMPLE]
    means = []
    with torch.no_grad():
        for batch in stream(sample, loaded.prompt.prepare, job.coarse.batch):
            means.append(loaded.layer_means(loaded.inputs(_without_index(batch), device())).cpu())
    settings = job.encoder
    groups = group_layers(torch.cat(means).numpy(), settings.layer_groups, reduction=settings.group_reduction)
    # Index 0 of the hidden states is the token embedding, so layer `n` has index `n + 1`.
    about = json.loads((job.result / "encoder.json").read_text())
    about["layers"] = [[layer + 1 for layer in group] for group in groups]
    (job.result / "encoder.json").write_text(json.dumps(about, indent=2))


def _without_index(batch: Arrays) -> Arrays:
    return {name: rows for name, rows in batch.items() if name != "item_idx"}
