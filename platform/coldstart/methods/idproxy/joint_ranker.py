"""The joint ranker: one click model over an item's ID row and its content vectors (IDProxy, stage 2).

Legend: `B` rows, `T` targets, `d` ID width, `K` vectors of an item besides its ID, `w` inputs of a ranker's MLP, `V`
vocabulary, `G` layer groups, `D` MLLM width.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.data.batches import TARGET_FIELDS, RankBatch
from coldstart.data.features import EncodedFeatures
from coldstart.data.item_table import ItemTable
from coldstart.methods.idproxy.item_vectors import ContentVectors, ItemVectors, make_vectors
from coldstart.modules.mlp import copy_into_wider, input_size, mlp
from coldstart.rankers.interface import InteractionRanker, Ranker, require_interaction
from coldstart.rankers.storage import load_ranker, save_ranker

WEIGHTS, CONFIG, RANKER = "weights.safetensors", "joint.json", "ranker"
FULL_EVIDENCE_EVENTS = 100.0
"""Train events of an item at which its evidence is 1."""


class JointRanker(nn.Module):
    """A trained ranker, extended by more slots than the one of the ID and trained further.

    With `structure_reuse`, each vector takes the item slot in turn, and the ranker's own attention and cross network
    process it like an ID row. Their outputs are the input of a wider MLP. The logits that bypass the MLP are averaged
    with learned weights that depend on the evidence for the ID. Without `structure_reuse`, the vectors are plain inputs
    of the MLP. In both cases the model starts as the original ranker: the MLP's weights of the new inputs are zero.

    A *joint slot* is its input for one item: `[id | vectors | evidence]`, `(K + 1) d + 1` numbers. Histories keep
    their ID rows.

    Args:
        ranker: The trained ranker; it is modified in place.
        vectors: Computes the content vectors of an item.
        events: [V] train events of each item.
        structure_reuse: Whether the vectors go through attention and cross network.
    """

    events: Tensor

    def __init__(
        self, ranker: InteractionRanker, vectors: ItemVectors, events: Tensor, *, structure_reuse: bool
    ) -> None:
        super().__init__()
        self.ranker = ranker.requires_grad_(True)
        self.vectors = vectors
        self.structure_reuse = structure_reuse
        self.register_buffer("events", events.float())
        inputs, width = input_size(ranker.mlp), ranker.embedding_dim
        added = vectors.count * (inputs if structure_reuse else width) + 1
        self.mlp = mlp(inputs + added, ranker.settings.mlp_units, ranker.settings.dropout)
        copy_into_wider(self.mlp, ranker.mlp)
        ranker.mlp.requires_grad_(False)
        added_slots = vectors.count if structure_reuse else 0
        self.weight = nn.Parameter(torch.tensor([-2.0, *[0.0] * added_slots]))
        self.weight_by_evidence = nn.Parameter(torch.tensor([8.0, *[0.0] * added_slots]))

    @property
    def history(self) -> int:
        """Longest history of a target, in events."""
        return self.ranker.max_history

    @property
    def slot_width(self) -> int:
        """Width of a joint slot."""
        return (self.vectors.count + 1) * self.ranker.embedding_dim + 1

    def slots(self, item_idx: Tensor, vectors: Tensor) -> Tensor:
        """Joint slots `[..., (K + 1) d + 1]` of items `[...]` (0 for a hidden ID) and vectors `[..., K, d]`."""
        resolved = self.ranker.resolve(item_idx)
        evidence = torch.log1p(self.events[resolved]) / math.log1p(FULL_EVIDENCE_EVENTS)
        evidence = evidence * (resolved > 0)
        return torch.cat([self.ranker.id_slots(item_idx), vectors.flatten(-2), evidence.unsqueeze(-1)], dim=-1)

    @torch.inference_mode()
    def table(self, items: ItemTable, *, id_visible: bool = True) -> Tensor:
        """Joint slots `[V, ...]` of all items; without `id_visible`, as if no item had an ID row.

        Args:
            items: The encoder's columns: coarse proxies [V, d] and layer states [V, G, D].
            id_visible: Whether items keep their IDs.
        """
        return torch.cat(
            [
                self.slots(rows * id_visible, self.vectors(columns["coarse"], columns["states"]))
                for rows, columns in items.passes()
            ]
        )

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` of joint slots `[B, T, (K + 1) d + 1]`."""
        width, count = self.ranker.embedding_dim, self.vectors.count
        ids, vectors, evidence = torch.split(slots, [width, count * width, 1], dim=-1)
        if not self.structure_reuse:
            logits, interactions = self.ranker.interact(batch, ids)
            inputs = torch.cat([interactions, vectors, evidence], dim=-1)
        else:
            rows, targets = batch.target_idx.shape
            all_slots = torch.cat([ids, *torch.split(vectors, width, dim=-1)], dim=1)
            slot_logits, interactions = self.ranker.interact(_repeated(batch, count + 1), all_slots)
            weights = torch.softmax(self.weight + evidence * self.weight_by_evidence, dim=-1)
            logits = (slot_logits.view(rows, count + 1, targets).movedim(1, -1) * weights).sum(-1)
            inputs = torch.cat([*interactions.view(rows, count + 1, targets, -1).unbind(1), evidence], dim=-1)
        out: Tensor = logits + self.mlp(inputs).squeeze(-1)
        return out


def check_supports_joint(ranker: Ranker) -> InteractionRanker:
    """Returns the ranker if a joint ranker can be built from it.

    Raises:
        UserError: it is not an `InteractionRanker`.
    """
    return require_interaction(ranker, needed_by="method.mode joint", otherwise="set method.mode: frozen")


def save_joint(
    joint: JointRanker, path: Path, item_ids: Sequence[str], item_features: EncodedFeatures | None = None
) -> None:
    """Writes a joint ranker into an existing directory: its ranker in a subdirectory, the rest in own files.

    Args:
        joint: The joint ranker to save.
        path: Existing directory.
        item_ids: [V - 1] the catalog's ids; the first is item 1.
        item_features: [V] the catalog's encoded features, if the ranker reads any.
    """
    (path / RANKER).mkdir()
    save_ranker(joint.ranker, path / RANKER, item_ids, item_features)
    kind = "content" if isinstance(joint.vectors, ContentVectors) else "proxies"
    config = {"vectors": kind, "config": joint.vectors.config, "structure_reuse": joint.structure_reuse}
    (path / CONFIG).write_text(json.dumps(config, indent=2))
    state = {name: value for name, value in joint.state_dict().items() if not name.startswith("ranker.")}
    save_file({name: value.contiguous().cpu() for name, value in state.items()}, path / WEIGHTS)


def load_joint(path: Path) -> JointRanker:
    """Loads a joint ranker in eval mode from a directory that `save_joint` wrote.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"no joint ranker at {path}: {CONFIG} or {WEIGHTS} is missing; run the align_fine stage with "
            "method.mode joint"
        )
    ranker = check_supports_joint(load_ranker(path / RANKER))
    try:
        config = json.loads((path / CONFIG).read_text())
        vectors = make_vectors(config["vectors"], config["config"])
        joint = JointRanker(ranker, vectors, torch.zeros(ranker.vocab_size), structure_reuse=config["structure_reuse"])
        found = joint.load_state_dict(load_file(path / WEIGHTS), strict=False)
        missing = [name for name in found.missing_keys if not name.startswith("ranker.")]
        if missing or found.unexpected_keys:
            raise KeyError(*missing, *found.unexpected_keys)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path} does not hold a complete joint ranker ({first}); run the align_fine stage again"
        ) from error
    return joint.eval()


def _repeated(batch: RankBatch, times: int) -> RankBatch:
    """The batch with its targets repeated: `[B, times T]`."""
    return replace(batch, **{name: torch.cat([getattr(batch, name)] * times, dim=1) for name in TARGET_FIELDS})
