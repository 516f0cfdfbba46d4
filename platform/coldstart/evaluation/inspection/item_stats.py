"""What the items of a dataset are like: train events, missing modalities, equal contents, sizes of a sample."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coldstart.config.recipe import Modalities
from coldstart.data.content import Content, image_size
from coldstart.data.dataset import Dataset
from coldstart.data.schema import ITEMS_PER_ROW_GROUP
from coldstart.evaluation.inspection.count_distribution import CountDistribution

MODALITIES = ("image", "title", "text", "title and text")
"""What an item can lack; the last one stands for items without any words."""
SAMPLED_GROUPS = 64
"""Row groups of items whose contents are read: at most 1,024 items, 16 at a time in memory."""


@dataclass(frozen=True)
class Missing:
    """Items that lack a modality.

    Attributes:
        cold: Cold items without it.
        warm: Items with train events without it.
        cold_items: All cold items.
        warm_items: All items with train events.
    """

    cold: int
    warm: int
    cold_items: int
    warm_items: int

    @property
    def share(self) -> float:
        """Share of all items."""
        return _share(self.cold + self.warm, self.cold_items + self.warm_items)

    @property
    def cold_share(self) -> float:
        """Share of the cold items; NaN if there are none."""
        return _share(self.cold, self.cold_items)

    @property
    def warm_share(self) -> float:
        """Share of the items with train events; NaN if there are none."""
        return _share(self.warm, self.warm_items)


@dataclass(frozen=True)
class ItemStats:
    """Statistics of all items.

    Attributes:
        cold: Number of cold items.
        train_events: Train events of items.
        missing: Modality -> items that lack it.
        equal_content: Items whose content another item has as well.
        cold_copies: Cold items whose content an item with train events has as well.
    """

    cold: int
    train_events: CountDistribution
    missing: dict[str, Missing]
    equal_content: int
    cold_copies: int

    @property
    def items(self) -> int:
        """Number of items."""
        return self.train_events.units


@dataclass(frozen=True)
class ContentSample:
    """Sizes of the contents of sampled items.

    Attributes:
        items: Number of sampled items.
        image_bytes: [images] encoded size.
        image_sides: [readable, 2] width and height in pixels.
        formats: Format -> images, by the header; the others cannot be read.
        words: [items with a title or text] words of both.
    """

    items: int
    image_bytes: NDArray[np.int64]
    image_sides: NDArray[np.int64]
    formats: dict[str, int]
    words: NDArray[np.int64]


def collect_items(dataset: Dataset) -> ItemStats:
    """Statistics of all items; images are not read.

    Raises:
        UserError: an earlier version of coldstart prepared the dataset.
    """
    cold = dataset.cold[1:]
    group = dataset.content_groups(Modalities())[1:]
    size = np.bincount(group)
    warm_in_group = np.bincount(group, weights=~cold)
    return ItemStats(
        cold=int(cold.sum()),
        train_events=CountDistribution.of(dataset.train_counts[1:]),
        missing=_missing(dataset, cold),
        equal_content=int((size[group] > 1).sum()),
        cold_copies=int((cold & (warm_in_group[group] > 0)).sum()),
    )


def _missing(dataset: Dataset, cold: NDArray[np.bool_]) -> dict[str, Missing]:
    # The digest of no image is always the same, so that no image must be read.
    no_image = Content().image_digest
    counts = {name: np.zeros(2, np.int64) for name in MODALITIES}
    for part in dataset.item_parts(["item_idx", "title", "text", "image_digest"]):
        is_cold = cold[np.asarray(part["item_idx"]) - 1]
        lacks = {name: _is_empty(part[name]) for name in ("title", "text")}
        lacks["image"] = np.asarray(part["image_digest"]) == no_image
        lacks["title and text"] = lacks["title"] & lacks["text"]
        for name, mask in lacks.items():
            counts[name] += [(mask & is_cold).sum(), (mask & ~is_cold).sum()]
    of_cold, of_warm = int(cold.sum()), int((~cold).sum())
    return {name: Missing(int(lacking[0]), int(lacking[1]), of_cold, of_warm) for name, lacking in counts.items()}


def _is_empty(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.array([not value for value in column.to_pylist()], bool)


def sample_contents(dataset: Dataset, *, seed: int) -> ContentSample:
    """Reads the contents of some items, a row group at a time.

    Args:
        dataset: The dataset.
        seed: Of the sample.
    """
    groups = -(-dataset.num_items // ITEMS_PER_ROW_GROUP)
    chosen = np.random.default_rng(seed).permutation(groups)[:SAMPLED_GROUPS]
    items, sizes, words = 0, [], []
    sides: list[tuple[int, int]] = []
    formats: Counter[str] = Counter()
    for group in np.sort(chosen):
        first = int(group) * ITEMS_PER_ROW_GROUP + 1
        last = min(first + ITEMS_PER_ROW_GROUP, dataset.num_items + 1)
        items += last - first
        for content in dataset.contents(np.arange(first, last)):
            if content.image:
                sizes.append(len(content.image))
                header = image_size(content.image)
                if header is not None:
                    sides.append(header[:2])
                    formats[header[2]] += 1
            if content.title or content.text:
                words.append(len(f"{content.title or ''} {content.text or ''}".split()))
    return ContentSample(
        items=items,
        image_bytes=np.array(sizes, np.int64),
        image_sides=np.array(sides, np.int64).reshape(-1, 2),
        formats=dict(formats.most_common()),
        words=np.array(words, np.int64),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
