"""Trains a ranker on clicks; items are hidden behind the OOV row at random so that the row is ready for cold items."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coldstart.config import Journal
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import EventSequences, RankBatch, UserWindows, users_of
from coldstart.rankers import Ranker, ranker_class
from coldstart.rankers.warm_start import taste_rows
from coldstart.training.click_loop import ClickLoop, Gauc, Progress, Schedule, gauc_of, score_rows
from coldstart.training.ranks import device, rank

TRAIN, VALID = 0, 1

TARGETS = 32
"""Targets of a training window. A window's pairs are its targets times its history and all events between, of which a
target sees `history`: long windows waste pairs, short ones read the same history again and again."""


class HiddenItems(nn.Module):
    """A ranker that sees a share of items, drawn anew each step, as the OOV row: as targets and in histories.

    Which items is a hash of (seed, step, item), so all ranks hide the same ones whatever rows they hold.

    Args:
        ranker: To be trained.
        share: Of the items that are hidden.
        seed: Of the hash.
        dtype: What matrices are multiplied in while training; weights, optimizer and scoring stay float32.
    """

    def __init__(self, ranker: Ranker, *, share: float, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.ranker = ranker
        self.share = share
        self.seed = seed
        self.dtype = dtype

    def forward(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`; nothing is hidden when `step` is None."""
        if step is not None and self.share:
            sizes = [batch.history_idx.numel(), batch.target_idx.numel()]
            both = torch.cat([batch.history_idx.flatten(), batch.target_idx.flatten()])
            past, target = torch.split(hide(both, share=self.share, seed=self.seed, step=step), sizes)
            batch = replace(
                batch,
                history_idx=past.view_as(batch.history_idx),
                target_idx=target.view_as(batch.target_idx),
            )
        lower = step is not None and self.dtype is not torch.float32
        with torch.autocast(batch.target_idx.device.type, self.dtype, enabled=lower):
            logits: Tensor = self.ranker(batch, self.ranker.id_slots(batch.target_idx))
        return logits.float()


def hide(item_idx: Tensor, *, share: float, seed: int, step: int) -> Tensor:
    """Item indices with a seeded share of the items replaced by 0 in this step."""
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
    *,
    seed: int,
    gauc: Gauc,
    splits: Sequence[int] = (TRAIN,),
    journal: Journal | None = None,
    checkpoints: Path | None = None,
) -> tuple[Ranker, Progress]:
    """Trains on the train events with early stopping on the GAUC of the valid events; called on all ranks alike.

    Args:
        sequences: Events of all users.
        num_items: Items of the catalogue; the table gets one row more.
        settings: The recipe's section.
        seed: Of weights, order and hidden items.
        gauc: Per-user AUC.
        splits: Split codes of the events that are trained on; no other label or item is read in training.
        journal: For a line per epoch.
        checkpoints: Directory of the resumable state.

    Returns:
        The ranker with the weights of its best epoch, in eval mode, and how training went.
    """
    torch.manual_seed(seed)
    ranker = ranker_class(settings.kind)(num_items + 1, settings, sequences.features.schema).to(device())
    train = np.isin(np.asarray(sequences.split), splits)
    seen = np.unique(np.asarray(sequences.item_idx)[train])
    ranker.trained[torch.from_numpy(seen.astype(np.int64)).to(device())] = True
    rows = taste_rows(
        users_of(sequences, np.flatnonzero(train)),
        np.asarray(sequences.item_idx)[train],
        np.asarray(sequences.label)[train].astype(np.float64),
        vocabulary=num_items + 1,
        width=settings.width,
        seed=seed,
    )
    ranker.start_from(torch.from_numpy(rows))
    # Ranks must draw different dropout masks for their different rows.
    torch.manual_seed(seed * 1000 + rank())
    model = HiddenItems(ranker, share=settings.id_dropout, seed=seed, dtype=getattr(torch, settings.precision))
    valid = UserWindows(sequences, history=settings.history, splits=[VALID])
    known = np.isin(np.asarray(sequences.item_idx)[valid.rows], seen)
    loop = ClickLoop(
        model,
        make_optimizer(ranker, settings),
        UserWindows(sequences, history=settings.history, splits=splits, targets=TARGETS),
        lambda: gauc_of(sequences, valid.rows, score_rows(model, valid), gauc, among=known),
        Schedule(
            epochs=settings.epochs,
            patience=settings.patience,
            windows_per_step=settings.users_per_step,
            seed=seed,
        ),
        journal=journal,
        checkpoints=checkpoints,
    )
    progress = loop.run()
    return ranker.eval(), progress


def make_optimizer(ranker: Ranker, settings: RankerSettings) -> torch.optim.Optimizer:
    """Fused AdamW, with an epsilon of its own for the ID table."""
    table = list(ranker.id_table.parameters())
    owned = {id(parameter) for parameter in table}
    rest = [parameter for parameter in ranker.parameters() if id(parameter) not in owned]
    return torch.optim.AdamW(
        [
            {"params": rest, "weight_decay": settings.weight_decay},
            {"params": table, "eps": settings.table_eps, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        fused=True,
    )
