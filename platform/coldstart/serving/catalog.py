"""Looks up items of a release: their features, and the source of their slot (ID row, proxy, both, or OOV row)."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from coldstart.alignment.warmup_blend import load_id_weight
from coldstart.data.dataset import read_features
from coldstart.data.features import EncodedFeatures
from coldstart.rankers.storage import read_item_features
from coldstart.serving.proxy_store import ProxyStore, Vectors
from coldstart.serving.schemas import SlotSource
from coldstart.serving.slot_sources import SlotSources


class Catalog:
    """The items of a release.

    Args:
        ranker: Directory of the ranker artifact.
        adaptor: Directory of the adaptor artifact, which holds the weight of each item's ID row.
        store: Proxies of the release.

    Attributes:
        index: Item id -> catalog index.
        id_weight: [V] weight of the ID row in each item's slot.
    """

    def __init__(self, ranker: Path, adaptor: Path, store: ProxyStore) -> None:
        table = pq.read_table(ranker / "vocabulary.parquet", columns=["item_id", "item_idx", "trained"])
        ids, indices, trained = (table[name].to_pylist() for name in ("item_id", "item_idx", "trained"))
        self.index: dict[str, int] = dict(zip(ids, indices, strict=True))
        is_trained = torch.zeros(1 + max(indices, default=0), dtype=torch.bool)
        is_trained[indices] = torch.tensor(trained, dtype=torch.bool)
        self.id_weight: list[float] = load_id_weight(adaptor, is_trained).tolist()
        self.store = store
        self.schema = read_features(ranker)
        self._features = read_item_features(ranker, self.schema)

    def indices(self, item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Catalog indices, 0 for unknown ids; the ranker itself maps untrained items to the OOV row."""
        return np.fromiter((self.index.get(item_id, 0) for item_id in item_ids), np.int64)

    def slot_sources(self, item_ids: list[str | None]) -> SlotSources:
        """Chooses the slot source of each candidate.

        A trained item uses its ID row, or a blend of ID row and proxy while it warms up; an untrained item uses its
        proxy. A published proxy replaces the catalog's, because it is newer. A withdrawn item is unknown.

        Args:
            item_ids: [T]; `None` for a candidate whose proxy the caller adds.
        """
        self.store.catch_up()
        sources: list[SlotSource] = []
        proxies: dict[int, Vectors] = {}
        weights: dict[int, float] = {}
        indices = np.zeros(len(item_ids), np.int64)
        for position, item_id in enumerate(item_ids):
            if item_id is None:
                sources.append("proxy")
                continue
            index = self.index.get(item_id, 0)
            if self.store.is_withdrawn(item_id):
                sources.append("oov")
                continue
            indices[position] = index
            weight = self.id_weight[index]
            proxy = None if weight == 1 else self.store.proxy(item_id, index)
            if proxy is None:
                sources.append("id" if weight else "oov")
                continue
            sources.append("blended" if weight else "proxy")
            proxies[position] = proxy
            if weight:
                weights[position] = weight
        return SlotSources(indices, sources, proxies, weights)

    def features(
        self, item_ids: list[str | None], indices: npt.NDArray[np.int64], from_request: Mapping[int, EncodedFeatures]
    ) -> EncodedFeatures:
        """Encoded item features [T, C] and [T, N] of candidates, as of the last call of `slot_sources`.

        Features of a published item replace the catalog's, because they are newer.

        Args:
            item_ids: [T]; `None` for a candidate without an id.
            indices: [T] catalog indices, 0 for items that are not in the catalog.
            from_request: Position -> features [1, C] and [1, N] from the request.
        """
        codes, values = self._features.categorical[indices], self._features.numeric[indices]
        if not codes.shape[1] + values.shape[1]:
            return EncodedFeatures(codes, values)
        for position, item_id in enumerate(item_ids):
            published = None if item_id is None else self.store.features(item_id)
            if published is not None:
                codes[position], values[position] = np.split(published, [codes.shape[1]])
        for position, coded in from_request.items():
            codes[position], values[position] = coded.categorical[0], coded.numeric[0]
        return EncodedFeatures(codes, values)
