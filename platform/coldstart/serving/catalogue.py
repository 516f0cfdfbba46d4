"""What is known of an item: its features, and what stands for it (trained ID row, fine proxy, both, unknown item)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from coldstart.alignment.hand_over import load_id_shares
from coldstart.data.dataset import read_features
from coldstart.data.features import Coded
from coldstart.rankers.storage import read_item_features
from coldstart.serving.proxy_store import ProxyStore, Vectors
from coldstart.serving.schemas import Vector


@dataclass(frozen=True)
class Choice:
    """What stands for a list of candidates.

    Attributes:
        item_idx: [T] catalogue indices, 0 for items the catalogue does not have.
        vectors: Kind of vector per candidate.
        proxies: Proxies `[d]` by position, for the candidates of kinds `fine` and `blend`.
        id_shares: By position, for the candidates of kind `blend`: how much their ID rows have taken over.
    """

    item_idx: npt.NDArray[np.int64]
    vectors: list[Vector]
    proxies: dict[int, Vectors]
    id_shares: dict[int, float]


class Catalogue:
    """Item ids of a release and what is known of them.

    Args:
        ranker: The ranker's artifact directory.
        adaptor: The adaptor's, which says how items are handed over.
        store: Proxies of the release.

    Attributes:
        index: Item id -> catalogue index.
        id_shares: [V] the ID row's share of each item's slot.
    """

    def __init__(self, ranker: Path, adaptor: Path, store: ProxyStore) -> None:
        table = pq.read_table(ranker / "vocabulary.parquet", columns=["item_id", "item_idx", "trained"])
        ids, indices, trained = (table[name].to_pylist() for name in ("item_id", "item_idx", "trained"))
        self.index: dict[str, int] = dict(zip(ids, indices, strict=True))
        known = torch.zeros(1 + max(indices, default=0), dtype=torch.bool)
        known[indices] = torch.tensor(trained, dtype=torch.bool)
        self.id_shares: list[float] = load_id_shares(adaptor, known).tolist()
        self.store = store
        self.schema = read_features(ranker)
        self._features = read_item_features(ranker, self.schema)

    def indices(self, item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Catalogue indices, 0 for unknown ids; the ranker itself resolves untrained ones to OOV."""
        return np.fromiter((self.index.get(item_id, 0) for item_id in item_ids), np.int64)

    def choose(self, item_ids: list[str | None]) -> Choice:
        """Decides per candidate; `None` marks one whose proxy the caller adds.

        A trained item has its ID row, wholly or, while it warms up, in part; the rest is its proxy, of which a
        published one wins over the catalogue's, being newer. An item that was withdrawn is an unknown one.
        """
        self.store.catch_up()
        kinds: list[Vector] = []
        proxies: dict[int, Vectors] = {}
        shares: dict[int, float] = {}
        indices = np.zeros(len(item_ids), np.int64)
        for position, item_id in enumerate(item_ids):
            if item_id is None:
                kinds.append("fine")
                continue
            index = self.index.get(item_id, 0)
            if self.store.withdrawn(item_id):
                kinds.append("oov")
                continue
            indices[position] = index
            share = self.id_shares[index]
            proxy = None if share == 1 else self.store.proxy(item_id, index)
            if proxy is None:
                kinds.append("id" if share else "oov")
                continue
            kinds.append("blend" if share else "fine")
            proxies[position] = proxy
            if share:
                shares[position] = share
        return Choice(indices, kinds, proxies, shares)

    def features(self, item_ids: list[str | None], indices: npt.NDArray[np.int64], given: Mapping[int, Coded]) -> Coded:
        """Encoded item features [T, C] and [T, N] of candidates, as of the last `choose`.

        Those it was published with win over the catalogue's, being newer.

        Args:
            item_ids: [T]; `None` marks a candidate that has no id.
            indices: [T] catalogue indices, 0 for what the catalogue does not have.
            given: Features [1, C] and [1, N] by position, of candidates that carry their own.
        """
        codes, values = self._features.categorical[indices], self._features.numeric[indices]
        if not codes.shape[1] + values.shape[1]:
            return Coded(codes, values)
        for position, item_id in enumerate(item_ids):
            known = None if item_id is None else self.store.features(item_id)
            if known is not None:
                codes[position], values[position] = np.split(known, [codes.shape[1]])
        for position, coded in given.items():
            codes[position], values[position] = coded.categorical[0], coded.numeric[0]
        return Coded(codes, values)
