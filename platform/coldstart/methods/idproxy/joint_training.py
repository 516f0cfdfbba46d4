"""Trains a joint ranker by clicks: the content vectors together with the ranker that takes them as input."""

import torch
from torch import Tensor

from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch
from coldstart.data.item_table import ItemTable
from coldstart.methods.idproxy.fine_training import make_adaptor, train_events
from coldstart.methods.idproxy.item_vectors import ContentVectors, ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker
from coldstart.rankers.interface import InteractionRanker
from coldstart.rankers.scorer import RankerScorer, drop_target_ids
from coldstart.training.cold_calibration import cold_validation
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    TrainerConfig,
    TrainerState,
    TrainingContext,
)
from coldstart.training.distributed import device, rank
from coldstart.training.ranker_training import id_dropout_rows


class TrainableJointScorer(RankerScorer):
    """A joint ranker that reads the encoder's columns and computes the proxies itself, so that clicks train them.

    Args:
        joint: The model to train.
    """

    def __init__(self, joint: JointRanker) -> None:
        super().__init__(joint.ranker)
        self.joint = joint

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        rows, inverse = torch.unique(batch.target_row, return_inverse=True)
        columns = items.gather(rows)
        vectors = self.joint.vectors(columns["coarse"], columns["states"])
        logits: Tensor = self.joint(batch, self.joint.slots(batch.target_idx, vectors[inverse]))
        return logits


def align_joint(
    ranker: InteractionRanker,
    sequences: EventSequences,
    items: ItemTable,
    settings: Fine,
    context: TrainingContext,
    *,
    content: bool = False,
) -> tuple[JointRanker, TrainerState]:
    """Trains on the train events, with early stopping on the GAUC of cold items. Call it on all ranks.

    Args:
        ranker: Initial ranker; it is modified.
        sequences: Events of all users.
        items: The encoder's columns: coarse proxies [V, d] and layer states [V, G, D].
        settings: The recipe section `fine`.
        context: Seed, metric, metrics log and checkpoints.
        content: Learns as many vectors from the layer states alone, instead of proxies.

    Returns:
        The joint ranker with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    joint = _make_joint(ranker, sequences, items, settings, seed=context.seed, content=content)
    torch.manual_seed(context.seed * 1000 + rank())
    scorer = TrainableJointScorer(joint).to(device())

    def score_cold(batch: RankBatch) -> Tensor:
        logits: Tensor = scorer(drop_target_ids(batch), items)
        return logits

    history, share = ranker.max_history, settings.joint.id_dropout
    trainer = CTRTrainer(
        scorer,
        make_optimizer(joint, settings),
        id_dropout_rows(sequences, items, history=history, share=share, seed=context.seed),
        cold_validation(score_cold, sequences, context.gauc, history=history),
        TrainerConfig(
            epochs=settings.joint.epochs,
            patience=settings.patience,
            windows_per_step=settings.windows_per_step,
            seed=context.seed,
        ),
        context,
    )
    state = trainer.run()
    return joint.eval(), state


def _make_joint(
    ranker: InteractionRanker,
    sequences: EventSequences,
    items: ItemTable,
    settings: Fine,
    *,
    seed: int,
    content: bool,
) -> JointRanker:
    torch.manual_seed(seed)
    proxy_vectors = ProxyVectors(make_adaptor(items, settings))
    vectors: ProxyVectors | ContentVectors = proxy_vectors
    if content:
        vectors = ContentVectors.with_param_budget(proxy_vectors, dropout=settings.dropout)
    vectors.init_near_mean(ranker.id_rows()[ranker.trained].cpu())
    events = torch.from_numpy(train_events(sequences, len(items)))
    return JointRanker(ranker, vectors, events, structure_reuse=settings.joint.structure_reuse)


def make_optimizer(joint: JointRanker, settings: Fine) -> torch.optim.Optimizer:
    """Fused AdamW: pretrained weights have a lower learning rate, and the ID table has its own epsilon."""
    ranker, table = joint.ranker, list(joint.ranker.id_table.parameters())
    separate = {id(weight) for weight in table} | {id(weight) for weight in ranker.mlp.parameters()}
    pretrained = [weight for weight in ranker.parameters() if id(weight) not in separate]
    pretrained += list(joint.mlp.parameters())
    new = [*joint.vectors.parameters(), joint.weight, joint.weight_by_evidence]
    decay, rate = ranker.settings.weight_decay, settings.joint.ranker_lr
    return torch.optim.AdamW(
        [
            {"params": pretrained, "weight_decay": decay, "lr": rate},
            {"params": table, "eps": ranker.settings.embedding_adam_eps, "weight_decay": 0.0, "lr": rate},
            {"params": [weight for weight in new if weight.requires_grad], "weight_decay": settings.weight_decay},
        ],
        lr=settings.learning_rate,
        fused=True,
    )
