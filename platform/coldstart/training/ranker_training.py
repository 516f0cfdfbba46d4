"""Trains a ranker on clicks; ID dropout trains the OOV row, which cold items use."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import EventSequences, RankBatch, UserWindows, users_of
from coldstart.rankers import Ranker, ranker_class
from coldstart.rankers.svd_init import svd_item_init
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    TrainerConfig,
    TrainerState,
    TrainingContext,
    gauc_of,
    score_targets,
)
from coldstart.training.distributed import device, rank

TRAIN, VALID = 0, 1

TARGETS_PER_WINDOW = 32
"""Targets of a training window. A window computes all pairs of its targets and its events, of which a target uses only
its last `history` events. Long windows waste pairs, and short windows encode the same history repeatedly."""


class IdDropout(nn.Module):
    """Replaces a random share of items, in targets and histories, by the OOV row in each training step.

    A hash of (seed, step, item) selects the items, so all ranks drop the same ones.

    Args:
        ranker: The model to train.
        share: Share of items that are dropped.
        seed: For the hash.
        dtype: Of matrix products in training; weights, optimizer and scoring stay float32.
    """

    def __init__(self, ranker: Ranker, *, share: float, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.ranker = ranker
        self.share = share
        self.seed = seed
        self.dtype = dtype

    def forward(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`; no item is dropped if `step` is None."""
        if step is not None and self.share:
            sizes = [batch.history_idx.numel(), batch.target_idx.numel()]
            both = torch.cat([batch.history_idx.flatten(), batch.target_idx.flatten()])
            history, target = torch.split(drop_ids(both, share=self.share, seed=self.seed, step=step), sizes)
            batch = replace(
                batch,
                history_idx=history.view_as(batch.history_idx),
                target_idx=target.view_as(batch.target_idx),
            )
        autocast = step is not None and self.dtype is not torch.float32
        with torch.autocast(batch.target_idx.device.type, self.dtype, enabled=autocast):
            logits: Tensor = self.ranker(batch, self.ranker.id_slots(batch.target_idx))
        return logits.float()


def drop_ids(item_idx: Tensor, *, share: float, seed: int, step: int) -> Tensor:
    """Item indices in which a seeded share of the items of this step is replaced by 0."""
    rng = np.random.default_rng((seed, step))
    first, second = (int(n) | 1 for n in rng.integers(1, 2**31, 2))
    mask = 2**31 - 1
    mixed = (item_idx * first) & mask
    mixed = mixed ^ (mixed >> 15)
    mixed = (mixed * second) & mask
    mixed = mixed ^ (mixed >> 13)
    mixed = (mixed * 0x2C1B3C6D) & mask
    return item_idx * (mixed >= int(share * 2**31))


def train_ranker(
    sequences: EventSequences,
    num_items: int,
    settings: RankerSettings,
    context: TrainingContext,
    *,
    splits: Sequence[int] = (TRAIN,),
) -> tuple[Ranker, TrainerState]:
    """Trains on the train events, with early stopping on the GAUC of the validation events. Call it on all ranks.

    Args:
        sequences: Events of all users.
        num_items: Number of items in the catalog; the ID table has one more row.
        settings: The recipe section `ranker`.
        context: Seed, metric, metrics log and checkpoints.
        splits: Split codes of the training events; training reads no label or item of other events.

    Returns:
        The ranker with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    ranker, seen = _make_ranker(sequences, num_items, settings, seed=context.seed, splits=splits)
    # Ranks hold different rows, so their dropout masks must differ.
    torch.manual_seed(context.seed * 1000 + rank())
    model = IdDropout(ranker, share=settings.id_dropout, seed=context.seed, dtype=getattr(torch, settings.precision))
    valid = UserWindows(sequences, history=settings.max_history, splits=[VALID])
    known = np.isin(np.asarray(sequences.item_idx)[valid.event_indices], seen)
    trainer = CTRTrainer(
        model,
        make_optimizer(ranker, settings),
        UserWindows(sequences, history=settings.max_history, splits=splits, targets=TARGETS_PER_WINDOW),
        lambda: gauc_of(sequences, valid.event_indices, score_targets(model, valid), context.gauc, among=known),
        TrainerConfig(
            epochs=settings.epochs,
            patience=settings.patience,
            windows_per_step=settings.windows_per_step,
            seed=context.seed,
        ),
        context,
    )
    state = trainer.run()
    return ranker.eval(), state


def _make_ranker(
    sequences: EventSequences, num_items: int, settings: RankerSettings, *, seed: int, splits: Sequence[int]
) -> tuple[Ranker, npt.NDArray[np.integer[Any]]]:
    """A new ranker, whose item rows are initialized from the training events, and the items of those events."""
    torch.manual_seed(seed)
    ranker = ranker_class(settings.kind)(num_items + 1, settings, sequences.features.schema).to(device())
    train = np.isin(np.asarray(sequences.split), splits)
    seen = np.unique(np.asarray(sequences.item_idx)[train])
    ranker.trained[torch.from_numpy(seen.astype(np.int64)).to(device())] = True
    rows = svd_item_init(
        users_of(sequences, np.flatnonzero(train)),
        np.asarray(sequences.item_idx)[train],
        np.asarray(sequences.label)[train].astype(np.float64),
        vocab_size=num_items + 1,
        width=settings.embedding_dim,
        seed=seed,
    )
    ranker.init_from(torch.from_numpy(rows))
    return ranker, seen


def make_optimizer(ranker: Ranker, settings: RankerSettings) -> torch.optim.Optimizer:
    """Fused AdamW with a separate epsilon for the ID table."""
    table = list(ranker.id_table.parameters())
    in_table = {id(parameter) for parameter in table}
    rest = [parameter for parameter in ranker.parameters() if id(parameter) not in in_table]
    return torch.optim.AdamW(
        [
            {"params": rest, "weight_decay": settings.weight_decay},
            {"params": table, "eps": settings.embedding_adam_eps, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        fused=True,
    )
