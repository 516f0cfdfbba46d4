"""Which vector fills the item slot of each candidate."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coldstart.serving.proxy_store import Vectors
from coldstart.serving.schemas import SlotSource


@dataclass(frozen=True)
class SlotSources:
    """The source of each candidate's item slot.

    Attributes:
        item_idx: [T] catalog indices, 0 for items that are not in the catalog.
        sources: [T] one of `id`, `blended`, `proxy`, `oov`.
        proxies: Position -> proxy `[d]`, for the candidates with source `proxy` or `blended`.
        id_weight: Position -> weight of the ID row, for the candidates with source `blended`.
    """

    item_idx: npt.NDArray[np.int64]
    sources: list[SlotSource]
    proxies: dict[int, Vectors]
    id_weight: dict[int, float]
