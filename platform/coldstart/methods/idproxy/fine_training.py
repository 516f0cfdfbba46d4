"""Fine alignment: trains the adaptor by click loss through a frozen ranker."""

from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.data.item_table import ItemTable
from coldstart.methods.idproxy.adaptor import Adaptor, fine_proxies
from coldstart.methods.idproxy.warmup_blend import WARMUP_EVENT_CHOICES, blend_slots, id_weight
from coldstart.rankers import Ranker, weights_sha256
from coldstart.rankers.scorer import RankerScorer
from coldstart.training.cold_calibration import calibration_shift, cold_validation
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    Gauc,
    TrainerConfig,
    TrainerState,
    TrainingContext,
    TrainingRows,
    gauc_of,
    score_targets,
    slot_score,
)
from coldstart.training.distributed import device, rank
from coldstart.training.ranker_training import TRAIN, VALID


class FrozenRankerWithProxies(RankerScorer):
    """A frozen ranker with fine proxies in the item slots of all targets; histories keep their ID rows.

    It reads the encoder's columns and computes the proxies itself, so that clicks train the adaptor.

    Args:
        adaptor: Maps coarse proxies and layer states to item slots of the ranker.
        ranker: Has the ID rows.
        model: Maps (batch, slots) to logits; the ranker by default.
    """

    def __init__(self, adaptor: nn.Module, ranker: Ranker, model: nn.Module | None = None) -> None:
        super().__init__(ranker)
        self.adaptor = adaptor
        self.model = (model or ranker).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Switches the mode of the adaptor only; the frozen ranker must not use dropout."""
        self.training = mode
        self.adaptor.train(mode)
        return self

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        rows, inverse = torch.unique(batch.target_row, return_inverse=True)
        columns = items.gather(rows)
        logits: Tensor = self.model(batch, self.adaptor(columns["coarse"], columns["states"])[inverse])
        return logits


def align_fine(
    ranker: Ranker, sequences: EventSequences, items: ItemTable, settings: Fine, context: TrainingContext
) -> tuple[Adaptor, TrainerState]:
    """Trains an adaptor on the train events, with early stopping on the GAUC of cold items. Call it on all ranks.

    After training, `cold_calibration.calibration_shift` is added to all proxies.

    Args:
        ranker: Stays unchanged.
        sequences: Events of all users.
        items: The encoder's columns: coarse proxies [V, d] and layer states [V, G, D].
        settings: The recipe section `fine`.
        context: Seed, metric, metrics log and checkpoints.

    Returns:
        The adaptor with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    before = weights_sha256(ranker)
    torch.manual_seed(context.seed)
    adaptor = make_adaptor(items, settings)
    adaptor.init_near_mean(ranker.id_rows()[ranker.trained].cpu())
    scorer = FrozenRankerWithProxies(adaptor, ranker)
    state = train_with_frozen_ranker(scorer, sequences, items, settings, context)
    fine = fine_proxies(adaptor, items)
    shift = calibration_shift(fine, ranker, ranker.id_rows()[0], sequences, history=ranker.max_history)
    with torch.no_grad():
        adaptor.offset.add_(shift)
    if weights_sha256(ranker) != before:
        raise AssertionError("fine alignment changed the frozen ranker")
    return adaptor.eval(), state


def make_adaptor(items: ItemTable, settings: Fine) -> Adaptor:
    """A new adaptor for columns of these shapes."""
    (width,), (groups, state_width) = (items.specs[name].shape for name in ("coarse", "states"))
    return Adaptor(
        width,
        groups,
        state_width,
        mlp_units=settings.mlp_units,
        dropout=settings.dropout,
        ablate=settings.ablate,
    )


def train_with_frozen_ranker(
    scorer: FrozenRankerWithProxies,
    sequences: EventSequences,
    items: ItemTable,
    settings: Fine,
    context: TrainingContext,
) -> TrainerState:
    """Trains the content model of a frozen ranker by clicks; arguments as in `align_fine`."""
    torch.manual_seed(context.seed * 1000 + rank())
    scorer, history = scorer.to(device()), scorer.max_history
    weights = frequency_weights(sequences, len(items), half_weight=settings.frequency_half_weight)
    trainer = CTRTrainer(
        scorer,
        torch.optim.AdamW(
            [weight for weight in scorer.adaptor.parameters() if weight.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        TrainingRows(UserWindows(sequences, history=history, splits=[TRAIN], item_weight=weights), items),
        cold_validation(partial(scorer, items=items), sequences, context.gauc, history=history),
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
    adaptor: Adaptor, ranker: Ranker, sequences: EventSequences, items: ItemTable, *, gauc: Gauc
) -> dict[int, float]:
    """GAUC of warming items on the validation events, for each number of warm-up events in `WARMUP_EVENT_CHOICES`.

    The number of warm-up events is the number of train events from which the ID row alone is used; the best choice has
    the largest value. Warming items have at least one train event and fewer than the last choice; all choices score the
    other items alike. Call it on all ranks.

    Args:
        adaptor: After alignment.
        ranker: The ranker it was aligned with.
        sequences: Events of all users.
        items: The encoder's columns: coarse proxies [V, d] and layer states [V, G, D].
        gauc: Per-user AUC.
    """
    item_idx, events = np.asarray(sequences.item_idx), train_events(sequences, len(items))
    valid = UserWindows(sequences, history=ranker.max_history, splits=[VALID])
    of_rows = events[item_idx[valid.event_indices]]
    warming = (of_rows > 0) & (of_rows < WARMUP_EVENT_CHOICES[-1])
    where = device()
    ids = ranker.id_slots(torch.arange(len(items), device=where))
    fine = adaptor(items.columns["coarse"].to(where), items.columns["states"].to(where))
    counts, trained = torch.from_numpy(events).to(where), ranker.trained.to(where)
    curve = {}
    for until in WARMUP_EVENT_CHOICES:
        table = blend_slots(ids, fine, id_weight(counts, trained, warmup_events=until))
        scores = score_targets(slot_score(ranker, table), valid)
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
