"""Fine alignment: trains the adaptor by click loss through a frozen ranker."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.alignment.adaptor import Adaptor, fine_proxies
from coldstart.alignment.warmup_blend import WARMUP_EVENT_CHOICES, blend_slots, id_weight
from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.encoders.item_embeddings import Proxies
from coldstart.rankers import Ranker, weights_sha256
from coldstart.training.cold_calibration import calibration_shift, early_stopping_mask
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    Gauc,
    TrainerConfig,
    TrainerState,
    TrainingContext,
    gauc_of,
    score_targets,
    slot_scorer,
)
from coldstart.training.distributed import device, rank
from coldstart.training.ranker_training import TRAIN, VALID


class FrozenRankerWithProxies(nn.Module):
    """A frozen ranker with fine proxies in the item slots of all targets; histories keep their ID rows.

    Args:
        adaptor: Maps coarse proxies and layer states to item slots of the ranker.
        ranker: Maps (batch, slots) to logits.
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
        """Switches the mode of the adaptor only; the frozen ranker must not use dropout."""
        self.training = mode
        self.adaptor.train(mode)
        return self

    def forward(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`."""
        items, inverse = torch.unique(batch.target_idx, return_inverse=True)
        proxies = self.adaptor(self.get_buffer("coarse")[items], self.get_buffer("states")[items])
        logits: Tensor = self.ranker(batch, proxies[inverse])
        return logits


def align_fine(
    ranker: Ranker, sequences: EventSequences, proxies: Proxies, settings: Fine, context: TrainingContext
) -> tuple[Adaptor, TrainerState]:
    """Trains an adaptor on the train events, with early stopping on the GAUC of cold items. Call it on all ranks.

    After training, `cold_calibration.calibration_shift` is added to all proxies.

    Args:
        ranker: Stays unchanged.
        sequences: Events of all users.
        proxies: Coarse proxies [N + 1, d] and layer states [N + 1, G, D].
        settings: The recipe section `fine`.
        context: Seed, metric, metrics log and checkpoints.

    Returns:
        The adaptor with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    before = weights_sha256(ranker)
    torch.manual_seed(context.seed)
    adaptor = make_adaptor(proxies, settings)
    adaptor.init_near_mean(ranker.id_rows()[ranker.trained].cpu())
    model = FrozenRankerWithProxies(adaptor, ranker, torch.from_numpy(proxies.coarse), torch.from_numpy(proxies.states))
    state = train_with_frozen_ranker(model, sequences, settings, context, history=ranker.max_history)
    fine = fine_proxies(adaptor, model.get_buffer("coarse"), model.get_buffer("states"))
    shift = calibration_shift(fine, ranker, ranker.id_rows()[0], sequences, history=ranker.max_history)
    with torch.no_grad():
        adaptor.offset.add_(shift)
    if weights_sha256(ranker) != before:
        raise AssertionError("fine alignment changed the frozen ranker")
    return adaptor.eval(), state


def make_adaptor(proxies: Proxies, settings: Fine) -> Adaptor:
    """A new adaptor for proxies of these shapes."""
    return Adaptor(
        proxies.coarse.shape[-1],
        proxies.states.shape[1],
        proxies.states.shape[2],
        mlp_units=settings.mlp_units,
        dropout=settings.dropout,
        ablate=settings.ablate,
    )


def train_with_frozen_ranker(
    model: FrozenRankerWithProxies,
    sequences: EventSequences,
    settings: Fine,
    context: TrainingContext,
    *,
    history: int,
) -> TrainerState:
    """Trains the content model of a frozen ranker by clicks; arguments as in `align_fine`.

    `history` is the maximum length of a target's history.
    """
    torch.manual_seed(context.seed * 1000 + rank())
    model = model.to(device())
    weights = frequency_weights(sequences, len(model.get_buffer("coarse")), half_weight=settings.frequency_half_weight)
    valid = UserWindows(sequences, history=history, splits=[VALID])
    selected = early_stopping_mask(sequences, valid)
    trainer = CTRTrainer(
        model,
        torch.optim.AdamW(
            [weight for weight in model.adaptor.parameters() if weight.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        UserWindows(sequences, history=history, splits=[TRAIN], item_weight=weights),
        lambda: gauc_of(sequences, valid.event_indices, score_targets(model, valid), context.gauc, among=selected),
        TrainerConfig(
            epochs=settings.epochs,
            patience=settings.patience,
            windows_per_step=settings.windows_per_step,
            seed=context.seed,
        ),
        context,
    )
    return trainer.run()


@torch.no_grad()
def select_warmup_events(
    adaptor: Adaptor, ranker: Ranker, sequences: EventSequences, proxies: Proxies, *, gauc: Gauc
) -> dict[int, float]:
    """GAUC of warming items on the validation events, for each number of warm-up events in `WARMUP_EVENT_CHOICES`.

    The number of warm-up events is the number of train events from which the ID row alone is used; the best choice has
    the largest value. Warming items have at least one train event and fewer than the last choice; all choices score the
    other items alike. Call it on all ranks.

    Args:
        adaptor: After alignment.
        ranker: The ranker it was aligned with.
        sequences: Events of all users.
        proxies: Coarse proxies [N + 1, d] and layer states [N + 1, G, D].
        gauc: Per-user AUC.
    """
    items, events = np.asarray(sequences.item_idx), train_events(sequences, len(proxies.coarse))
    valid = UserWindows(sequences, history=ranker.max_history, splits=[VALID])
    warming = (events[items[valid.event_indices]] > 0) & (events[items[valid.event_indices]] < WARMUP_EVENT_CHOICES[-1])
    where = device()
    ids = ranker.id_slots(torch.arange(len(proxies.coarse), device=where))
    fine = adaptor(torch.from_numpy(proxies.coarse).to(where), torch.from_numpy(proxies.states).to(where))
    counts, trained = torch.from_numpy(events).to(where), ranker.trained.to(where)
    curve = {}
    for until in WARMUP_EVENT_CHOICES:
        table = blend_slots(ids, fine, id_weight(counts, trained, warmup_events=until))
        scores = score_targets(slot_scorer(ranker, table), valid)
        curve[until] = gauc_of(sequences, valid.event_indices, scores, gauc, among=warming)
    return curve


def frequency_weights(sequences: EventSequences, vocabulary: int, *, half_weight: float) -> npt.NDArray[np.float32]:
    """Weight [V] of one train event of each item: `n` events weigh `n / (1 + n / half_weight)` in total."""
    events = train_events(sequences, vocabulary)
    weights: npt.NDArray[np.float32] = (half_weight / (half_weight + events)).astype(np.float32)
    return weights


def train_events(sequences: EventSequences, vocabulary: int) -> npt.NDArray[np.int64]:
    """Number of train events [V] of each item."""
    train = np.asarray(sequences.split) == TRAIN
    return np.bincount(np.asarray(sequences.item_idx)[train], minlength=vocabulary)
