"""The served scorers of IDProxy, and the adaptors that write the columns they read.

Legend: `d` ID width, `D` MLLM width, `G` layer groups, `V` vocabulary, `B` rows, `T` targets.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from coldstart.data.batches import RankBatch
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable
from coldstart.methods.base import ItemAdaptor
from coldstart.methods.idproxy.adaptor import Adaptor, load_adaptor
from coldstart.methods.idproxy.item_vectors import ItemVectors
from coldstart.methods.idproxy.joint_ranker import CONFIG as JOINT_CONFIG
from coldstart.methods.idproxy.joint_ranker import JointRanker, load_joint
from coldstart.methods.idproxy.warmup_blend import blend_slots
from coldstart.rankers import Ranker
from coldstart.rankers.scorer import RankerScorer

COARSE, STATES, PROXY = "coarse", "states", "proxy"


def encoder_columns(width: int, groups: int, state_width: int) -> ColumnSpecs:
    """Columns of the encoder: coarse proxies `[d]` and layer states `[G, D]`."""
    return {COARSE: ColumnSpec("float32", (width,)), STATES: ColumnSpec("float32", (groups, state_width))}


class FineProxies(ItemAdaptor):
    """Writes fine proxies (frozen mode).

    Args:
        adaptor: In eval mode.
    """

    def __init__(self, adaptor: Adaptor) -> None:
        super().__init__()
        self.adaptor = adaptor
        sizes = adaptor.config
        self.inputs = encoder_columns(sizes["width"], sizes["groups"], sizes["state_width"])
        self.outputs = {PROXY: ColumnSpec("float32", (sizes["width"],))}

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fine proxies `[n, d]`."""
        return {PROXY: self.adaptor(columns[COARSE], columns[STATES])}


class JointProxies(ItemAdaptor):
    """Writes scaled coarse proxies and fine proxies (joint mode).

    Args:
        vectors: The proxies of the joint ranker.
    """

    def __init__(self, vectors: ItemVectors) -> None:
        super().__init__()
        self.vectors = vectors
        sizes = vectors.config
        self.inputs = encoder_columns(sizes["width"], sizes["groups"], sizes["state_width"])
        self.outputs = {name: ColumnSpec("float32", (sizes["width"],)) for name in (COARSE, PROXY)}

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both proxies, `[n, d]` each."""
        coarse, fine = self.vectors(columns[COARSE], columns[STATES]).unbind(-2)
        return {COARSE: coarse, PROXY: fine}


def is_joint(path: Path) -> bool:
    """Whether the scorer in a directory was trained in joint mode."""
    return (path / JOINT_CONFIG).is_file()


def load_proxies(path: Path) -> ItemAdaptor:
    """The adaptor of a scorer, in eval mode, from the scorer's directory."""
    if is_joint(path):
        return JointProxies(load_joint(path).vectors).eval()
    return FineProxies(load_adaptor(path)).eval()


class FrozenScorer(RankerScorer):
    """The production ranker, unchanged, with the blend of ID row and fine proxy in the item slots of all targets.

    Args:
        ranker: The ranker.
        id_weight: [V] weight of the ID row; see `alignment.warmup_blend`.
    """

    weight: Tensor

    def __init__(self, ranker: Ranker, id_weight: Tensor) -> None:
        super().__init__(ranker)
        self.inputs = {PROXY: ColumnSpec("float32", (ranker.embedding_dim,))}
        self.register_buffer("weight", id_weight)

    @property
    def id_weight(self) -> Tensor:
        """`[V]` weight of the ID row in an item's slot."""
        return self.weight

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`; an item without a row in the table keeps its ID row, or the OOV row."""
        ids = self.ranker.id_slots(batch.target_idx)
        weight = self.weight[batch.target_idx].masked_fill(batch.target_row == 0, 1.0)
        logits: Tensor = self.ranker(batch, blend_slots(ids, items.gather(batch.target_row)[PROXY], weight))
        return logits


class JointScorer(RankerScorer):
    """A ranker that was trained with ID row, coarse and fine proxy as its inputs (IDProxy, section 3.3).

    Args:
        joint: The joint ranker.
    """

    def __init__(self, joint: JointRanker) -> None:
        super().__init__(joint.ranker)
        self.joint = joint
        self.inputs = {name: ColumnSpec("float32", (joint.ranker.embedding_dim,)) for name in (COARSE, PROXY)}

    @property
    def id_weight(self) -> Tensor:
        """`[V]` half for an item with a trained ID row: the model uses its ID and its proxies together."""
        return super().id_weight / 2

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        columns = items.gather(batch.target_row)
        vectors = torch.stack([columns[COARSE], columns[PROXY]], dim=-2)
        logits: Tensor = self.joint(batch, self.joint.slots(batch.target_idx, vectors))
        return logits
