"""Trains CiUBM by clicks: the new units together with the ranker; the encoders are not part of it (MIM, stage 3)."""

from functools import partial

import torch

from coldstart.data.batches import EventSequences
from coldstart.data.item_table import ItemTable
from coldstart.methods.mim.columns import CONTENT
from coldstart.methods.mim.config import Interest
from coldstart.methods.mim.scorer import ContentInterestScorer
from coldstart.rankers.interface import InteractionRanker
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
    ranker: InteractionRanker, sequences: EventSequences, items: ItemTable, settings: Interest, context: TrainingContext
) -> tuple[ContentInterestScorer, TrainerState]:
    """Trains on the train events, with early stopping on the GAUC of cold items. Call it on all ranks.

    Args:
        ranker: Initial ID-interest unit; it is modified.
        sequences: Events of all users.
        items: Has the column `content` `[V, k]`; no gradient reaches it.
        settings: The recipe section `method.interest`.
        context: Seed, metric, metrics log and checkpoints.

    Returns:
        The scorer with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    torch.manual_seed(context.seed)
    scorer = ContentInterestScorer(ranker, items.specs[CONTENT].shape[0], settings).to(device())
    torch.manual_seed(context.seed * 1000 + rank())
    history, share = ranker.max_history, settings.id_dropout
    trainer = CTRTrainer(
        scorer,
        make_optimizer(scorer),
        id_dropout_rows(sequences, items, history=history, share=share, seed=context.seed),
        cold_validation(partial(scorer, items=items), sequences, context.gauc, history=history),
        TrainerConfig(
            epochs=settings.epochs,
            patience=settings.patience,
            windows_per_step=settings.windows_per_step,
            seed=context.seed,
            precision=ranker.settings.precision,
        ),
        context,
    )
    state = trainer.run()
    return scorer.eval(), state


def make_optimizer(scorer: ContentInterestScorer) -> torch.optim.Optimizer:
    """Fused AdamW: the ranker's weights have a lower learning rate, and the ID table has its own epsilon."""
    ranker, settings = scorer.id_unit, scorer.settings
    table = list(ranker.id_table.parameters())
    separate = {id(weight) for weight in table}
    trained = [weight for weight in ranker.parameters() if weight.requires_grad and id(weight) not in separate]
    separate |= {id(weight) for weight in ranker.parameters()}
    new = [weight for weight in scorer.parameters() if id(weight) not in separate]
    decay = ranker.settings.weight_decay
    return torch.optim.AdamW(
        [
            {"params": trained, "weight_decay": decay, "lr": settings.ranker_lr},
            {
                "params": table,
                "weight_decay": 0.0,
                "lr": settings.ranker_lr,
                "eps": ranker.settings.embedding_adam_eps,
            },
            {"params": new, "weight_decay": settings.weight_decay},
        ],
        lr=settings.learning_rate,
        fused=True,
    )
