"""Trains a ranker on clicks; ID dropout trains the OOV row, which cold items use."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import EventSequences, RankBatch, UserWindows, users_of
from coldstart.data.item_table import ItemTable
from coldstart.rankers import Ranker, ranker_class
from coldstart.rankers.scorer import IdScorer
from coldstart.rankers.svd_init import svd_item_init
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    TrainerConfig,
    TrainerState,
    TrainingContext,
    TrainingRows,
    gauc_of,
    score_targets,
)
from coldstart.training.distributed import device, rank

TRAIN, VALID = 0, 1

TARGETS_PER_WINDOW = 32
"""Targets of a training window. A window computes all pairs of its targets and its events, of which a target uses only
its last `history` events. Long windows waste pairs, and short windows encode the same history repeatedly."""


class IdDropout:
    """Replaces the IDs of a random share of items, in targets and histories, by the OOV row in each training step.

    A hash of (seed, step, item) selects the items, so all ranks drop the same ones. The item rows of the batch stay, so
    a scorer that reads content still gets the content of these items. An ID is dropped from all rows of a step: if
    another row still had it, that ID would learn what the item's content should learn.

    Args:
        share: Share of items that are dropped.
        seed: For the hash.
    """

    def __init__(self, *, share: float, seed: int) -> None:
        self.share = share
        self.seed = seed

    def __call__(self, batch: RankBatch, step: int) -> RankBatch:
        """The batch of a training step with dropped IDs."""
        if not self.share:
            return batch
        sizes = [batch.history_idx.numel(), batch.target_idx.numel()]
        both = torch.cat([batch.history_idx.flatten(), batch.target_idx.flatten()])
        history, target = torch.split(drop_ids(both, share=self.share, seed=self.seed, step=step), sizes)
        return batch.with_ids(
            target_idx=target.view_as(batch.target_idx), history_idx=history.view_as(batch.history_idx)
        )


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


def id_dropout_rows(
    sequences: EventSequences,
    items: ItemTable,
    *,
    history: int,
    share: float,
    seed: int,
    splits: Sequence[int] = (TRAIN,),
) -> TrainingRows:
    """The events of some splits as training rows, with ID dropout.

    Args:
        sequences: Events of all users.
        items: The columns that the scorer reads.
        history: Maximum length of a target's history.
        share: Share of items per step whose IDs are dropped.
        seed: Of the ID dropout.
        splits: Split codes of the training events.
    """
    windows = UserWindows(sequences, history=history, splits=splits, targets=TARGETS_PER_WINDOW)
    return TrainingRows(windows, items, IdDropout(share=share, seed=seed))


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
    scorer = IdScorer(ranker)
    valid = UserWindows(sequences, history=settings.max_history, splits=[VALID])
    known = np.isin(np.asarray(sequences.item_idx)[valid.event_indices], seen)
    items = ItemTable({})
    score = partial(scorer, items=items)
    history, share = settings.max_history, settings.id_dropout
    trainer = CTRTrainer(
        scorer,
        make_optimizer(ranker, settings),
        id_dropout_rows(sequences, items, history=history, share=share, seed=context.seed, splits=splits),
        lambda: gauc_of(sequences, valid.event_indices, score_targets(score, valid), context.gauc, among=known),
        TrainerConfig(
            epochs=settings.epochs,
            patience=settings.patience,
            windows_per_step=settings.windows_per_step,
            seed=context.seed,
            precision=settings.precision,
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
