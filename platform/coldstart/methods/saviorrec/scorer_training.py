"""Trains the scorer of SaviorRec by clicks.

Legend: `V` vocabulary (items + 1), `k` content width, `Lq` code levels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coldstart.data.batches import EventSequences, RankBatch
from coldstart.data.item_table import ItemTable
from coldstart.methods.saviorrec.config import Rank, Settings
from coldstart.methods.saviorrec.model import CONTENT, SaviorScorer
from coldstart.rankers.interface import InteractionRanker
from coldstart.rankers.scorer import drop_target_ids
from coldstart.rankers.storage import weights_sha256
from coldstart.training.cold_calibration import cold_validation
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    TrainerConfig,
    TrainerState,
    TrainingContext,
)
from coldstart.training.distributed import device, rank
from coldstart.training.ranker_training import id_dropout_rows


def train_scorer(
    ranker: InteractionRanker,
    sequences: EventSequences,
    items: ItemTable,
    settings: Settings,
    context: TrainingContext,
    *,
    sizes: Sequence[int],
) -> tuple[SaviorScorer, TrainerState]:
    """Trains on the train events, with early stopping on the GAUC of cold items. Call it on all ranks.

    Args:
        ranker: Initial ranker; unchanged in frozen mode, trained further in joint mode.
        sequences: Events of all users.
        items: Content vectors [V, k] and codes [V, Lq].
        settings: The recipe section `method`.
        context: Seed, metric, metrics log and checkpoints.
        sizes: Codes of each level.

    Returns:
        The scorer with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    options, frozen = settings.rank, settings.mode == "frozen"
    before = weights_sha256(ranker)
    torch.manual_seed(context.seed)
    (width,) = items.specs[CONTENT].shape
    scorer = SaviorScorer(ranker, width, sizes, options, frozen=frozen).to(device())
    state = fit_scorer(scorer, sequences, items, options, context)
    if frozen and weights_sha256(ranker) != before:
        raise AssertionError("training changed the frozen ranker")
    return scorer.eval(), state


def fit_scorer(
    scorer: SaviorScorer, sequences: EventSequences, items: ItemTable, options: Rank, context: TrainingContext
) -> TrainerState:
    """Trains the weights that require a gradient, with early stopping on the GAUC of cold items.

    Args:
        scorer: On this rank's device; has the weights of its best epoch afterwards.
        sequences: Events of all users.
        items: Content vectors [V, k] and codes [V, Lq].
        options: The recipe section `method.rank`.
        context: Seed, metric, metrics log and checkpoints.
    """
    torch.manual_seed(context.seed * 1000 + rank())

    def score_cold(batch: RankBatch) -> Tensor:
        logits: Tensor = scorer(drop_target_ids(batch), items)
        return logits

    history = scorer.max_history
    trainer = CTRTrainer(
        scorer,
        make_optimizer(scorer, options),
        id_dropout_rows(sequences, items, history=history, share=options.id_dropout, seed=context.seed),
        cold_validation(score_cold, sequences, context.gauc, history=history),
        TrainerConfig(
            epochs=options.epochs,
            patience=options.patience,
            windows_per_step=options.windows_per_step,
            seed=context.seed,
        ),
        context,
    )
    return trainer.run()


def make_optimizer(scorer: SaviorScorer, options: Rank) -> torch.optim.Optimizer:
    """Fused AdamW over what requires a gradient: no decay of codebooks, and a lower learning rate of the ranker."""
    ranker = scorer.ranker
    codebooks = [] if scorer.mba is None else list(scorer.mba.codebooks.parameters())
    separate = {id(weight) for weight in (*codebooks, *ranker.parameters())}
    new = [weight for weight in scorer.parameters() if id(weight) not in separate]
    groups: list[dict[str, Any]] = [
        {"params": new, "weight_decay": options.weight_decay},
        {"params": codebooks, "weight_decay": 0.0},
    ]
    if not scorer.frozen:
        table = list(ranker.id_table.parameters())
        in_table = {id(weight) for weight in table}
        rest = [weight for weight in ranker.parameters() if id(weight) not in in_table]
        decay, rate = ranker.settings.weight_decay, options.ranker_lr
        groups += [
            {"params": rest, "weight_decay": decay, "lr": rate},
            {"params": table, "eps": ranker.settings.embedding_adam_eps, "weight_decay": 0.0, "lr": rate},
        ]
    for group in groups:
        group["params"] = [weight for weight in group["params"] if weight.requires_grad]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=options.learning_rate, fused=True)
