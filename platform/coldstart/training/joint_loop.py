"""Trains a joint ranker by clicks: the vectors that content gives and the ranker that reads them, together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.alignment.item_vectors import ContentVectors, ProxyVectors
from coldstart.alignment.joint_ranker import JointRanker
from coldstart.config import Journal
from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.rankers.interface import ReadingRanker
from coldstart.training.click_loop import ClickLoop, Gauc, Progress, Schedule, gauc_of, score_rows
from coldstart.training.cold_rows import judged_rows
from coldstart.training.fine_loop import make_adaptor, train_events
from coldstart.training.ranker_loop import TARGETS, TRAIN, VALID, hide
from coldstart.training.ranks import device, rank


class HiddenIds(nn.Module):
    """A joint ranker that sees the IDs of a share of items, drawn anew each step, as unknown; their content it sees.

    Hidden are whole items, as targets and in histories: if one of two rows of an item showed its ID, that would learn
    what the proxy of the other should have learned.

    Args:
        joint: To be trained.
        coarse: [V, d] coarse proxies.
        states: [V, G, D] layer states.
        share: Of the items whose ID is hidden.
        seed: Of the draws.
    """

    def __init__(self, joint: JointRanker, coarse: Tensor, states: Tensor, *, share: float, seed: int) -> None:
        super().__init__()
        self.joint = joint
        self.share = share
        self.seed = seed
        self.register_buffer("coarse", coarse, persistent=False)
        self.register_buffer("states", states, persistent=False)

    def forward(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`; nothing is hidden when `step` is None."""
        shown = batch.target_idx
        if step is not None and self.share:
            shown, past = (
                hide(index, share=self.share, seed=self.seed, step=step) for index in (shown, batch.history_idx)
            )
            return self._score(replace(batch, history_idx=past), batch.target_idx, shown)
        return self._score(batch, batch.target_idx, shown)

    def as_cold(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]` as if no target had an ID."""
        return self._score(batch, batch.target_idx, torch.zeros_like(batch.target_idx))

    def _score(self, batch: RankBatch, item_idx: Tensor, shown: Tensor) -> Tensor:
        items, place = torch.unique(item_idx, return_inverse=True)
        vectors = self.joint.vectors(self.get_buffer("coarse")[items], self.get_buffer("states")[items])
        logits: Tensor = self.joint(batch, self.joint.slots(shown, vectors[place]))
        return logits


def align_joint(
    ranker: ReadingRanker,
    sequences: EventSequences,
    coarse: npt.NDArray[np.float32],
    states: npt.NDArray[np.float32],
    settings: Fine,
    *,
    seed: int,
    gauc: Gauc,
    content: bool = False,
    journal: Journal | None = None,
    checkpoints: Path | None = None,
) -> tuple[JointRanker, Progress]:
    """Trains on the train events, with early stopping on the GAUC of cold items; called on all ranks alike.

    Args:
        ranker: Where training starts; it is changed.
        sequences: Events of all users.
        coarse: [N + 1, d] coarse proxies.
        states: [N + 1, G, D] layer states.
        settings: The recipe's section.
        seed: Of weights, order and hidden IDs.
        gauc: Per-user AUC.
        content: Whether, instead of proxies, as many vectors are learned from the layer states alone.
        journal: For a line per epoch.
        checkpoints: Directory of the resumable state.

    Returns:
        The joint ranker with the weights of its best epoch, in eval mode, and how training went.
    """
    torch.manual_seed(seed)
    proxies = ProxyVectors(make_adaptor(coarse, states, settings))
    vectors = ContentVectors.matching(proxies, dropout=settings.dropout) if content else proxies
    vectors.start_at(ranker.id_rows()[ranker.trained].cpu())
    events = torch.from_numpy(train_events(sequences, len(coarse)))
    joint = JointRanker(ranker, vectors, events, reuse=settings.joint.reuse)
    torch.manual_seed(seed * 1000 + rank())
    model = HiddenIds(
        joint, torch.from_numpy(coarse), torch.from_numpy(states), share=settings.joint.id_dropout, seed=seed
    ).to(device())
    valid = UserWindows(sequences, history=ranker.history, splits=[VALID])
    judged = judged_rows(sequences, valid)
    loop = ClickLoop(
        model,
        make_optimizer(joint, settings),
        UserWindows(sequences, history=ranker.history, splits=[TRAIN], targets=TARGETS),
        lambda: gauc_of(sequences, valid.rows, score_rows(model.as_cold, valid), gauc, among=judged),
        Schedule(
            epochs=settings.joint.epochs,
            patience=settings.patience,
            windows_per_step=settings.users_per_step,
            seed=seed,
        ),
        journal=journal,
        checkpoints=checkpoints,
    )
    progress = loop.run()
    return joint.eval(), progress


def make_optimizer(joint: JointRanker, settings: Fine) -> torch.optim.Optimizer:
    """Fused AdamW: what was trained before moves slowly, and the ID table has its own epsilon."""
    trained, table = joint.ranker, list(joint.ranker.id_table.parameters())
    owned = {id(weight) for weight in table} | {id(weight) for weight in trained.mlp.parameters()}
    before = [weight for weight in trained.parameters() if id(weight) not in owned]
    before += list(joint.mlp.parameters())
    new = [*joint.vectors.parameters(), joint.weight, joint.weight_known]
    kept, rate = trained.settings.weight_decay, settings.joint.ranker_rate
    return torch.optim.AdamW(
        [
            {"params": before, "weight_decay": kept, "lr": rate},
            {"params": table, "eps": trained.settings.table_eps, "weight_decay": 0.0, "lr": rate},
            {"params": [w for w in new if w.requires_grad], "weight_decay": settings.weight_decay},
        ],
        lr=settings.learning_rate,
        fused=True,
    )
