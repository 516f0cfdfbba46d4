"""Trains a joint ranker by clicks: the content vectors together with the ranker that takes them as input."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from coldstart.alignment.item_vectors import ContentVectors, ProxyVectors
from coldstart.alignment.joint_ranker import JointRanker
from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.encoders.item_embeddings import Proxies
from coldstart.rankers.interface import InteractionRanker
from coldstart.training.cold_calibration import early_stopping_mask
from coldstart.training.ctr_trainer import (
    CTRTrainer,
    TrainerConfig,
    TrainerState,
    TrainingContext,
    gauc_of,
    score_targets,
)
from coldstart.training.distributed import device, rank
from coldstart.training.fine_alignment import make_adaptor, train_events
from coldstart.training.ranker_training import TARGETS_PER_WINDOW, TRAIN, VALID, drop_ids


class JointIdDropout(nn.Module):
    """Drops the IDs, but not the content, of a random share of items in each training step of a joint ranker.

    An ID is dropped from all targets and histories of the step. If another row still had it, that ID would learn what
    the item's proxy should learn.

    Args:
        joint: The model to train.
        coarse: [V, d] coarse proxies.
        states: [V, G, D] layer states.
        share: Share of items whose ID is dropped.
        seed: For the random choice.
    """

    def __init__(self, joint: JointRanker, coarse: Tensor, states: Tensor, *, share: float, seed: int) -> None:
        super().__init__()
        self.joint = joint
        self.share = share
        self.seed = seed
        self.register_buffer("coarse", coarse, persistent=False)
        self.register_buffer("states", states, persistent=False)

    def forward(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]`; no ID is dropped if `step` is None."""
        ids = batch.target_idx
        if step is not None and self.share:
            ids, history = (
                drop_ids(index, share=self.share, seed=self.seed, step=step) for index in (ids, batch.history_idx)
            )
            return self._score(replace(batch, history_idx=history), batch.target_idx, ids)
        return self._score(batch, batch.target_idx, ids)

    def forward_cold(self, batch: RankBatch, step: int | None) -> Tensor:
        """Logits `[B, T]` with all target IDs dropped."""
        return self._score(batch, batch.target_idx, torch.zeros_like(batch.target_idx))

    def _score(self, batch: RankBatch, item_idx: Tensor, ids: Tensor) -> Tensor:
        items, inverse = torch.unique(item_idx, return_inverse=True)
        vectors = self.joint.vectors(self.get_buffer("coarse")[items], self.get_buffer("states")[items])
        logits: Tensor = self.joint(batch, self.joint.slots(ids, vectors[inverse]))
        return logits


def align_joint(
    ranker: InteractionRanker,
    sequences: EventSequences,
    proxies: Proxies,
    settings: Fine,
    context: TrainingContext,
    *,
    content: bool = False,
) -> tuple[JointRanker, TrainerState]:
    """Trains on the train events, with early stopping on the GAUC of cold items. Call it on all ranks.

    Args:
        ranker: Initial ranker; it is modified.
        sequences: Events of all users.
        proxies: Coarse proxies [N + 1, d] and layer states [N + 1, G, D].
        settings: The recipe section `fine`.
        context: Seed, metric, metrics log and checkpoints.
        content: Learns as many vectors from the layer states alone, instead of proxies.

    Returns:
        The joint ranker with the weights of its best epoch, in eval mode, and the state of the trainer.
    """
    joint = _make_joint(ranker, sequences, proxies, settings, seed=context.seed, content=content)
    torch.manual_seed(context.seed * 1000 + rank())
    model = JointIdDropout(
        joint,
        torch.from_numpy(proxies.coarse),
        torch.from_numpy(proxies.states),
        share=settings.joint.id_dropout,
        seed=context.seed,
    ).to(device())
    valid = UserWindows(sequences, history=ranker.max_history, splits=[VALID])
    selected = early_stopping_mask(sequences, valid)
    trainer = CTRTrainer(
        model,
        make_optimizer(joint, settings),
        UserWindows(sequences, history=ranker.max_history, splits=[TRAIN], targets=TARGETS_PER_WINDOW),
        lambda: gauc_of(
            sequences, valid.event_indices, score_targets(model.forward_cold, valid), context.gauc, among=selected
        ),
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
    proxies: Proxies,
    settings: Fine,
    *,
    seed: int,
    content: bool,
) -> JointRanker:
    torch.manual_seed(seed)
    proxy_vectors = ProxyVectors(make_adaptor(proxies, settings))
    vectors: ProxyVectors | ContentVectors = proxy_vectors
    if content:
        vectors = ContentVectors.with_param_budget(proxy_vectors, dropout=settings.dropout)
    vectors.init_near_mean(ranker.id_rows()[ranker.trained].cpu())
    events = torch.from_numpy(train_events(sequences, len(proxies.coarse)))
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
