"""Outputs of frozen towers for all items, computed once: stages 1 and 2 pass over the same items again and again.

Legend: `V` items + 1, `D` width of a tower.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from coldstart.data.streaming import Transform
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.training.contrastive_trainer import Ints, ItemStream
from coldstart.training.distributed import all_gather, device, rank, world_size

FILE = "tower_features.safetensors"
ITEMS_PER_BATCH = 64


@dataclass(frozen=True)
class TowerFeatures:
    """What the projections read of every item.

    Attributes:
        rows: `image_features` and `text_features` `[V, D]`, `has_image` and `has_text` `[V]`; row 0 is zero.
    """

    rows: dict[str, NDArray[Any]]

    def read(self, order: Ints, transform: Transform, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """An `ItemStream` of these rows; they need no transform."""
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield {"item_idx": chosen, **{name: values[chosen] for name, values in self.rows.items()}}

    def save(self, directory: Path) -> None:
        """Writes them into an existing directory."""
        save_file(self.rows, directory / FILE)

    @classmethod
    def load(cls, directory: Path) -> "TowerFeatures | None":
        """Those in a directory, or None."""
        return cls(load_file(directory / FILE)) if (directory / FILE).is_file() else None


def are_frozen(towers: DualEncoder) -> bool:
    """Whether nothing of both towers is trained."""
    return not any(weight.requires_grad for tower in (towers.image, towers.text) for weight in tower.parameters())


@torch.inference_mode()
def compute_features(
    towers: DualEncoder,
    num_items: int,
    read: ItemStream,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TowerFeatures:
    """Encodes all items, an equal share on each rank. Call it on all ranks.

    Args:
        towers: On this rank's device, in eval mode.
        num_items: Items of the catalog.
        read: Source of prepared items.
        progress: Called with the encoded and all items of this rank.
    """
    share = -(-num_items // world_size())
    own = np.resize(np.arange(1, num_items + 1), share * world_size())[rank() * share :][:share]
    parts, done = [], 0
    for batch in read(own, towers.rows, ITEMS_PER_BATCH):
        rows = {name: values for name, values in batch.items() if name != "item_idx"}
        parts.append({name: value.cpu() for name, value in towers.features(towers.inputs(rows, device())).items()})
        done += len(batch["item_idx"])
        progress(done, share)
    found = {}
    for name in parts[0]:
        gathered = all_gather(torch.cat([part[name] for part in parts]).to(device())).cpu()[:num_items]
        found[name] = torch.cat([torch.zeros_like(gathered[:1]), gathered]).numpy()
    return TowerFeatures(found)
