"""Fine alignment: trains the adaptor by click loss through a frozen ranker."""

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.alignment.adaptor import Adaptor, fine_proxies
from coldstart.alignment.hand_over import CHOICES, blend, id_shares
from coldstart.config import Journal
from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.rankers import Ranker, digest
from coldstart.training.click_loop import ClickLoop, Gauc, Progress, Schedule, gauc_of, score_rows, slot_scorer
from coldstart.training.cold_rows import judged_rows, level
from coldstart.training.ranker_loop import TRAIN, VALID
from coldstart.training.ranks import device, rank


class ProxiedRanker(nn.Module):
    """A frozen ranker whose item slot holds the fine proxy of every target; histories keep their ID rows.

    Args:
        adaptor: An `Adaptor`, or another reader of the same that gives what the ranker takes as slots.
        ranker: A `Ranker`, or another model of batch and slots.
        coarse: [V, d] coarse proxies.
        states: [V, G, D] layer states.
    """

    def __init__(self, adaptor: nn.Module, ranker: nn.Module, coarse: Tensor, states: Tensor) -> None:
        super().__init__()
        self.adaptor = adaptor
        self.ranker = ranker.requires_grad_(False).eval()
        self.register_buffer("coarse", coarse, persistent=False)
        self.register_buffer("states", states, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Switches the adaptor only: the frozen ranker has no business with dropout."""
        self.training = mode
        self.adaptor.train(mode)
        return self

    def forward(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`."""
        items, place = torch.unique(batch.target_idx, return_inverse=True)
        proxies = self.adaptor(self.get_buffer("coarse")[items], self.get_buffer("states")[items])
        logits: Tensor = self.ranker(batch, proxies[place])
        return logits


def align_fine(
    ranker: Ranker,
    sequences: EventSequences,
    coarse: npt.NDArray[np.float32],
    states: npt.NDArray[np.float32],
    settings: Fine,
    *,
    history: int,
    seed: int,
    gauc: Gauc,
    journal: Journal | None = None,
    checkpoints: Path | None = None,
) -> tuple[Adaptor, Progress]:
    """Trains an adaptor on the train events, with early stopping on the GAUC of cold items; called on all ranks alike.

    In the end its proxies are put on the level of unknown items (`cold_rows.level`).

    Args:
        ranker: Stays as it is, byte for byte.
        sequences: Events of all users.
        coarse: [N + 1, d] coarse proxies.
        states: [N + 1, G, D] layer states.
        settings: The recipe's section.
        history: Longest history a target sees.
        seed: Of weights and order.
        gauc: Per-user AUC.
        journal: For a line per epoch.
        checkpoints: Directory of the resumable state.

    Returns:
        The adaptor with the weights of its best epoch, in eval mode, and how training went.
    """
    before = digest(ranker)
    torch.manual_seed(seed)
    adaptor = make_adaptor(coarse, states, settings)
    adaptor.start_at(ranker.id_rows()[ranker.trained].cpu())
    model = ProxiedRanker(adaptor, ranker, torch.from_numpy(coarse), torch.from_numpy(states))
    progress = train_proxied(
        model, sequences, settings, history=history, seed=seed, gauc=gauc, journal=journal, checkpoints=checkpoints
    )
    proxies = fine_proxies(adaptor, model.get_buffer("coarse"), model.get_buffer("states"))
    step = level(proxies, ranker, ranker.id_rows()[0], sequences, history=history)
    with torch.no_grad():
        adaptor.offset.add_(step)
    if digest(ranker) != before:
        raise AssertionError("fine alignment changed the frozen ranker")
    return adaptor.eval(), progress


def make_adaptor(coarse: npt.NDArray[np.float32], states: npt.NDArray[np.float32], settings: Fine) -> Adaptor:
    """A new adaptor of coarse proxies [V, d] and layer states [V, G, D]."""
    return Adaptor(
        coarse.shape[-1],
        states.shape[1],
        states.shape[2],
        hidden=settings.hidden,
        dropout=settings.dropout,
        parts=settings.parts,
    )


def train_proxied(
    model: ProxiedRanker,
    sequences: EventSequences,
    settings: Fine,
    *,
    history: int,
    seed: int,
    gauc: Gauc,
    journal: Journal | None = None,
    checkpoints: Path | None = None,
) -> Progress:
    """Trains what stands in the slots of a frozen ranker; arguments as of `align_fine`."""
    torch.manual_seed(seed * 1000 + rank())
    model = model.to(device())
    weights = item_weights(sequences, len(model.get_buffer("coarse")), evidence=settings.evidence)
    valid = UserWindows(sequences, history=history, splits=[VALID])
    judged = judged_rows(sequences, valid)
    loop = ClickLoop(
        model,
        torch.optim.AdamW(
            [weight for weight in model.adaptor.parameters() if weight.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        UserWindows(sequences, history=history, splits=[TRAIN], item_weight=weights),
        lambda: gauc_of(sequences, valid.rows, score_rows(model, valid), gauc, among=judged),
        Schedule(
            epochs=settings.epochs,
            patience=settings.patience,
            windows_per_step=settings.users_per_step,
            seed=seed,
        ),
        journal=journal,
        checkpoints=checkpoints,
    )
    return loop.run()


@torch.no_grad()
def choose_hand_over(
    adaptor: Adaptor,
    ranker: Ranker,
    sequences: EventSequences,
    coarse: npt.NDArray[np.float32],
    states: npt.NDArray[np.float32],
    *,
    gauc: Gauc,
) -> dict[int, float]:
    """GAUC of warming items on the valid events by train events at which the ID row has taken over (`CHOICES`).

    Called on all ranks alike; the best choice is the key of the largest value. Warming items have train events, but
    fewer than the last choice: the others are served alike in any case.

    Args:
        adaptor: Aligned.
        ranker: That it was aligned with.
        sequences: Events of all users.
        coarse: [N + 1, d] coarse proxies.
        states: [N + 1, G, D] layer states.
        gauc: Per-user AUC.
    """
    items, events = np.asarray(sequences.item_idx), train_events(sequences, len(coarse))
    valid = UserWindows(sequences, history=ranker.history, splits=[VALID])
    warming = (events[items[valid.rows]] > 0) & (events[items[valid.rows]] < CHOICES[-1])
    there = device()
    ids = ranker.id_slots(torch.arange(len(coarse), device=there))
    proxies = adaptor(torch.from_numpy(coarse).to(there), torch.from_numpy(states).to(there))
    counts, trained = torch.from_numpy(events).to(there), ranker.trained.to(there)
    found = {}
    for until in CHOICES:
        table = blend(ids, proxies, id_shares(counts, trained, until=until))
        scores = score_rows(slot_scorer(ranker, table), valid)
        found[until] = gauc_of(sequences, valid.rows, scores, gauc, among=warming)
    return found


def item_weights(sequences: EventSequences, vocabulary: int, *, evidence: float) -> npt.NDArray[np.float32]:
    """Weight [V] of a train event of each item: `n` of them weigh as much as `n / (1 + n / evidence)` whole ones."""
    weights: npt.NDArray[np.float32] = (evidence / (evidence + train_events(sequences, vocabulary))).astype(np.float32)
    return weights


def train_events(sequences: EventSequences, vocabulary: int) -> npt.NDArray[np.int64]:
    """Train events [V] of each item."""
    train = np.asarray(sequences.split) == TRAIN
    return np.bincount(np.asarray(sequences.item_idx)[train], minlength=vocabulary)
