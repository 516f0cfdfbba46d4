"""Trains the content encoder on co-click pairs: items that the same users click get similar vectors (SaviorRec, A).

Legend: `b` pairs of a rank, `k` content width, `V` items + 1.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import UserError
from coldstart.config.recipe import Contrastive
from coldstart.data.pairs import CoClickPairs
from coldstart.encoders import Encoder
from coldstart.training.contrastive_trainer import (
    ContrastiveContext,
    ContrastiveTrainer,
    Inputs,
    Ints,
    ItemStream,
    PairModel,
    Pairs,
    Stream,
)
from coldstart.training.distributed import device


class CoClickModel(PairModel):
    """Encodes both items of co-click pairs with one encoder.

    Args:
        encoder: Trained further. Its inputs hold trigger and target of each pair in turn.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width
        self.levels = {"item": 1.0}

    def forward(self, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
        """`item`: vectors `[b, k]` of triggers and of targets."""
        vectors = self.encoder(dict(inputs))[0]
        return {"item": (vectors[0::2], vectors[1::2])}

    def encode_items(self, inputs: Inputs) -> dict[str, Tensor]:
        """`item`: vectors `[b, k]` of targets."""
        return {"item": self.forward(inputs)["item"][1]}


def train_on_pairs(
    encoder: Encoder,
    pairs: CoClickPairs,
    groups: Ints,
    settings: Contrastive,
    read: ItemStream,
    context: ContrastiveContext,
) -> list[dict[str, float]]:
    """Trains by InfoNCE both ways. Call it on all ranks.

    The target of another pair is no negative if its content is that of this target or trigger, or if it has the same
    trigger: pairs are counted over users, so equal items take the place of equal users **[I]**.

    Args:
        encoder: On this rank's device; trained in place.
        pairs: From train clicks.
        groups: `[V]` group of items with the same content.
        settings: The recipe section `method.encoder.contrast`.
        read: Source of prepared items.
        context: Seed, metrics log and checkpoints.

    Returns:
        Retrieval of the targets of held-out triggers, before training and after each epoch.

    Raises:
        UserError: there are fewer pairs than a batch.
    """
    trigger, target = pairs.trigger.astype(np.int64), pairs.target.astype(np.int64)
    held = _held_out(trigger, settings.holdout_fraction, context.seed)
    parts = []
    for part in (~held, held):
        a, b = trigger[part], target[part]
        of_trigger, of_target = groups[a], groups[b]
        parts.append(
            Pairs(
                np.stack([of_target, of_trigger, of_trigger], axis=1),
                np.stack([of_target, of_target, of_trigger], axis=1),
                _stream(np.stack([a, b], axis=1), encoder, read),
            )
        )
    try:
        return ContrastiveTrainer(CoClickModel(encoder).to(device()), parts[0], parts[1], settings, context).run()
    except UserError as error:
        raise UserError(f"method.encoder.contrast: {error}") from error


def _held_out(trigger: Ints, share: float, seed: int) -> NDArray[np.bool_]:
    """Pairs of a seeded share of the triggers, `[P]`."""
    triggers = np.unique(trigger)
    chosen = np.random.default_rng((seed, 6)).choice(triggers, round(share * len(triggers)), replace=False)
    return np.isin(trigger, chosen)


def _stream(items: Ints, encoder: Encoder, read: ItemStream) -> Stream:
    """The inputs of pairs of items `[P, 2]`, trigger and target in turn."""

    def stream(order: Ints, size: int) -> Iterator[Inputs]:
        for batch in read(items[order].ravel(), encoder.prompt.prepare, 2 * size):
            rows = {name: values for name, values in batch.items() if name != "item_idx"}
            yield encoder.inputs(rows, torch.device("cpu"))

    return stream
