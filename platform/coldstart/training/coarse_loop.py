"""Coarse alignment on each rank: stream, InfoNCE against frozen ID rows, checkpoint, measure, keep the best.

Step `t` of epoch `e` trains on rows `[t*B, (t+1)*B)` of the permutation drawn from (seed, e). A step is cut into
micro-batches and each of those into equal shares for the ranks; negatives are the rows of a micro-batch on all ranks,
so accumulation means fewer negatives. What is read and drawn at a step depends on its number alone: a resumed run
continues as if it had not been interrupted.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldstart.alignment.contrastive import gather, info_nce, retrieval
from coldstart.alignment.layer_groups import group_layers
from coldstart.config import Journal
from coldstart.config.recipe import Coarse, ContentSwitch
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.streaming import Transform
from coldstart.encoders import Encoder
from coldstart.training.checkpoint import Checkpoints
from coldstart.training.deepspeed_engine import deepspeed_config, keep_partitioned, start_engine, whole_state
from coldstart.training.ranks import barrier, device, rank, world_size

Arrays = dict[str, NDArray[Any]]
Stream = Callable[[NDArray[np.int64], Transform, int], Iterator[Arrays]]
"""(item indices, transform, batch size) -> batches of exactly that size, in that order."""

GROUPING_SAMPLE = 512


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


def train_coarse(task: CoarseTask, id_table: Tensor, stream: Stream) -> None:
    """Trains on this rank; at the end rank 0 has written the encoder to `task.result`.

    Args:
        task: The same on all ranks.
        id_table: Frozen ID rows `[V, d]` of the ranker.
        stream: Where prepared items come from.
    """
    config = deepspeed_config(task.coarse, dtype=task.encoder.dtype)
    partitioned = keep_partitioned(config)
    encoder = Encoder.create(task.mllm, task.encoder, width=id_table.shape[1], content=task.content, seed=task.seed)
    engine = start_engine(encoder, task.coarse, config, total_steps=task.total_steps)
    loop = _Loop(task, engine, encoder, torch.nn.functional.normalize(id_table.float(), dim=-1).to(device()), stream)
    loop.run()
    del partitioned
    if rank() == 0:
        _finish(task, encoder, loop.best_state(), stream)
    barrier()


class _Loop:
    def __init__(self, task: CoarseTask, engine: Any, encoder: Encoder, rows: Tensor, stream: Stream) -> None:
        self.task, self.engine, self.encoder, self.rows, self.stream = task, engine, encoder, rows, stream
        self.journal = Journal(task.journal)
        self.checkpoints = Checkpoints(task.checkpoints, task.key)
        self.micro = task.coarse.batch // (world_size() * task.coarse.accumulation)
        self.best = -1.0
        self.heldout = self._prepare_heldout()

    def run(self) -> None:
        """From the newest checkpoint to the last step."""
        task = self.task
        found = self.checkpoints.load(self.engine)
        start = found["step"] if found else 0
        if found:
            self.best = found["facts"]["best"]
        batches = self.stream(self._order(start), self.encoder.prompt.prepare, self.micro)
        for step in range(start, task.total_steps):
            began = time.perf_counter()
            figures = {"loss": self._step(step, batches)}
            figures["items_per_second"] = task.coarse.batch / (time.perf_counter() - began)
            done = step + 1
            if done % task.steps_per_epoch == 0:
                figures |= self._measure(done)
            if rank() == 0:
                self.journal.write(done, task.total_steps, **figures)
            if done % task.coarse.checkpoint_every == 0 and done < task.total_steps:
                self.checkpoints.save(self.engine, done, best=self.best)

    def best_state(self) -> dict[str, Tensor]:
        """The whole state of the encoder at its best epoch."""
        return load_file(self.task.checkpoints / "best.safetensors")

    def _step(self, step: int, batches: Iterator[Arrays]) -> float:
        """One optimizer step; its loss, averaged over all ranks."""
        torch.manual_seed(hash((self.task.seed, step, rank())))
        total = torch.zeros((), device=device())
        for micro in range(self.task.coarse.accumulation):
            batch = dict(next(batches))
            item_idx = torch.tensor(batch.pop("item_idx"), device=device())
            batch = self._hide_words(batch, step, micro)
            coarse, _ = self.engine(self.encoder.inputs(batch, device()))
            loss = info_nce(coarse, self.rows[item_idx], item_idx, temperature=self.task.coarse.temperature)
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.item() / (world_size() * self.task.coarse.accumulation)

    def _hide_words(self, batch: Arrays, step: int, micro: int) -> Arrays:
        """Hides a share of the words, drawn for the rows of all ranks so that it does not depend on their number."""
        drawn = np.random.default_rng((self.task.seed, 2, step, micro))
        draw = drawn.random((world_size() * self.micro, self.encoder.prompt.max_text_tokens))
        hidden = draw < self.task.coarse.hidden_words
        return self.encoder.prompt.hide_words(batch, hidden[rank() * self.micro :][: self.micro])

    def _order(self, start: int) -> NDArray[np.int64]:
        """Item indices this rank reads from step `start` to the end."""
        task = self.task
        epochs = range(start // task.steps_per_epoch, task.coarse.epochs)
        used = task.steps_per_epoch * task.coarse.batch
        orders = [np.random.default_rng((task.seed, epoch)).permutation(task.train)[:used] for epoch in epochs]
        rest = np.concatenate([*orders, np.empty(0, np.int64)])[start % task.steps_per_epoch * task.coarse.batch :]
        return rest.reshape(-1, world_size(), self.micro)[:, rank()].ravel()

    def _prepare_heldout(self) -> list[Arrays]:
        """This rank's share of the held-out items, padded so that all ranks run the same number of batches."""
        share = -(-len(self.task.heldout) // world_size())
        if not share:
            return []
        mine = np.resize(self.task.heldout, share * world_size()).reshape(world_size(), share)[rank()]
        return list(self.stream(mine, self.encoder.prompt.prepare, self.micro))

    @torch.no_grad()
    def _measure(self, step: int) -> dict[str, float]:
        """Retrieval of held-out items' own ID rows; the best state so far is kept. Called by all ranks."""
        figures: dict[str, float] = {}
        if self.heldout:
            self.engine.eval()
            coarse = [self.engine(self.encoder.inputs(_without_index(batch), device()))[0] for batch in self.heldout]
            self.engine.train()
            everyone = gather(torch.cat(coarse))[: len(self.task.heldout)]
            mature = np.sort(np.concatenate([self.task.train, self.task.heldout]))
            own = torch.as_tensor(np.searchsorted(mature, self.task.heldout), device=device())
            figures = retrieval(everyone, own, self.rows[torch.as_tensor(mature, device=device())])
        # The cosine to one's own row changes smoothly; ranks among thousands of rows, for some hundred items, do not.
        score = figures.get("mean_cosine", float(step))
        if score > self.best:
            self.best = score
            state = whole_state(self.engine.module)
            if state is not None:
                draft = self.task.checkpoints / ".best.draft"
                draft.parent.mkdir(parents=True, exist_ok=True)
                save_file(state, draft)
                draft.replace(self.task.checkpoints / "best.safetensors")
        return figures


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
    groups = group_layers(torch.cat(means).numpy(), task.encoder.layer_groups)
    # Position 0 of the hidden states is the token embedding, so layer `n` stands at `n + 1`.
    about = json.loads((task.result / "encoder.json").read_text())
    about["layers"] = [layer + 1 for layer in groups]
    (task.result / "encoder.json").write_text(json.dumps(about, indent=2))


def _without_index(batch: Arrays) -> Arrays:
    return {name: rows for name, rows in batch.items() if name != "item_idx"}
