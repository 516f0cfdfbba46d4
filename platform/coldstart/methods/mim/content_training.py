"""Trains the content encoder on each rank: image-text alignment (stage 1) and C-SFT (stage 2).

Legend: `b` pairs of a rank, `k` width, `V` items + 1.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import UserError
from coldstart.config.recipe import Contrastive
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.methods.mim.config import FineTune
from coldstart.methods.mim.content_encoder import ContentEncoder
from coldstart.methods.mim.pairs import ClickPairs
from coldstart.training.contrastive_trainer import (
    ContrastiveContext,
    ContrastiveTrainer,
    Inputs,
    Ints,
    ItemStream,
    PairModel,
    Pairs,
)
from coldstart.training.distributed import device

Curve = list[dict[str, float]]
QUERY, ITEM = "query.", "item."


class ImageTextModel(PairModel):
    """Stage 1: the image of an item is the query, its text the positive.

    Args:
        towers: Trained further.
    """

    def __init__(self, towers: DualEncoder) -> None:
        super().__init__()
        self.towers = towers
        self.width = towers.width
        self.levels = {"text": 1.0}

    def forward(self, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
        """`text`: image and text vectors `[b, k]`."""
        return {"text": self.towers(inputs)}

    def encode_items(self, inputs: Inputs) -> dict[str, Tensor]:
        """`text`: text vectors `[b, k]`."""
        return {"text": self.towers.encode_texts(inputs)}


class ContentInterestModel(PairModel):
    """Stage 2: the image of a clicked item is the query; image, text and fusion of the next one are the positives.

    Where an item lacks a modality, its other one takes that place, so that catalogs of images alone or of texts alone
    train, too.

    Args:
        encoder: Trained further.
        settings: Weights of the levels.
    """

    def __init__(self, encoder: ContentEncoder, settings: FineTune) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width
        self.levels = {"image": settings.image_weight, "text": settings.text_weight, "item": 1.0}

    def forward(self, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
        """Level -> vectors of queries and items `[b, k]`."""
        query = self._encode_queries(_side(inputs, QUERY))
        return {level: (query, vectors) for level, vectors in self.encode_items(inputs).items()}

    def encode_items(self, inputs: Inputs) -> dict[str, Tensor]:
        """`image`, `text` and `item` vectors `[b, k]` of the items."""
        side = _side(inputs, ITEM)
        vectors = self.encoder(side)
        image, text = vectors["image"], vectors["text"]
        return {
            "image": torch.where(side["has_image"].unsqueeze(-1), image, text),
            "text": torch.where(side["has_text"].unsqueeze(-1), text, image),
            "item": vectors["item"],
        }

    def _encode_queries(self, side: Inputs) -> Tensor:
        image = self.encoder.towers.encode_images(side)
        has_image = side["has_image"]
        if bool(has_image.all()):
            return image
        return torch.where(has_image.unsqueeze(-1), image, self.encoder.towers.encode_texts(side))


def _side(inputs: Inputs, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}


def align_modalities(
    encoder: ContentEncoder,
    items: Ints,
    groups: Ints,
    settings: Contrastive,
    read: ItemStream,
    context: ContrastiveContext,
) -> Curve:
    """Trains the towers on image and text of the same item. Call it on all ranks.

    Args:
        encoder: On this rank's device; trained in place.
        items: Indices of the items that have both modalities.
        groups: `[V, 2]` groups of items with the same text, and with the same image: no negatives of each other.
        settings: The recipe section `method.align`.
        read: Source of prepared items.
        context: Seed, metrics log and checkpoints.

    Returns:
        Retrieval of the held-out items' texts by their images, before training and after each epoch.
    """
    train, heldout = _split(items, items, settings, context.seed)
    pairs = [Pairs(groups[part], groups[part], _items_of(part, encoder, read)) for part in (train, heldout)]
    return _train(ImageTextModel(encoder.towers), pairs[0], pairs[1], settings, context, "method.align")


def fine_tune_content(
    encoder: ContentEncoder,
    pairs: ClickPairs,
    groups: Ints,
    settings: FineTune,
    read: ItemStream,
    context: ContrastiveContext,
) -> Curve:
    """Trains towers and fusion on pairs of clicks (C-SFT). Call it on all ranks.

    Args:
        encoder: On this rank's device; trained in place.
        pairs: Clicks in train.
        groups: `[V]` group of items with the same content.
        settings: The recipe section `method.fine_tune`.
        read: Source of prepared items.
        context: Seed, metrics log and checkpoints.

    Returns:
        Retrieval of the next item of held-out users' pairs, before training and after each epoch.
    """
    users = _split(np.arange(len(pairs)), pairs.user, settings, context.seed)
    both = []
    for part in users:
        chosen = pairs.take(np.isin(np.arange(len(pairs)), part))
        both.append(Pairs(*chosen.groups(groups), _pairs_of(chosen, encoder, read), chosen.weights))
    return _train(ContentInterestModel(encoder, settings), both[0], both[1], settings, context, "method.fine_tune")


def _split(rows: Ints, owner: Ints, settings: Contrastive, seed: int) -> tuple[Ints, Ints]:
    """Rows to train on and held-out rows: all rows of a seeded share of owners."""
    owners = np.unique(owner)
    count = round(settings.holdout_fraction * len(owners))
    heldout = np.isin(owner, np.random.default_rng((seed, 5)).choice(owners, count, replace=False))
    return rows[~heldout], rows[heldout]


def _train(
    model: PairModel, train: Pairs, heldout: Pairs, settings: Contrastive, context: ContrastiveContext, section: str
) -> Curve:
    try:
        return ContrastiveTrainer(model.to(device()), train, heldout, settings, context).run()
    except UserError as error:
        raise UserError(f"{section}: {error}") from error


def _items_of(items: Ints, encoder: ContentEncoder, read: ItemStream) -> Callable[[Ints, int], Iterator[Inputs]]:
    """The inputs of single items, by their place in `items`."""
    towers = encoder.towers

    def stream(order: Ints, size: int) -> Iterator[Inputs]:
        for batch in read(items[order], towers.rows, size):
            yield towers.inputs(_without_index(batch), "cpu")

    return stream


def _pairs_of(pairs: ClickPairs, encoder: ContentEncoder, read: ItemStream) -> Callable[[Ints, int], Iterator[Inputs]]:
    """The inputs of both items of pairs, with the prefixes `query.` and `item.`."""
    towers = encoder.towers

    def stream(order: Ints, size: int) -> Iterator[Inputs]:
        both = np.stack([pairs.query[order], pairs.item[order]], axis=1).ravel()
        for batch in read(both, towers.rows, 2 * size):
            rows = _without_index(batch)
            sides: dict[str, Tensor] = {}
            for place, prefix in enumerate((QUERY, ITEM)):
                side = towers.inputs({name: values[place::2] for name, values in rows.items()}, "cpu")
                sides |= {prefix + name: value for name, value in side.items()}
            yield sides

    return stream


def _without_index(batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: rows for name, rows in batch.items() if name != "item_idx"}
