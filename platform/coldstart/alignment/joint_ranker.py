"""The joint ranker: an item's ID row and what content says of it side by side in one click model (IDProxy, stage 2).

Legend: `B` rows, `T` targets, `d` ID width, `K` vectors of an item beside its ID, `w` what a ranker's MLP reads, `V`
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

from coldstart.alignment.item_vectors import ContentVectors, ItemVectors, make_vectors
from coldstart.config import UserError
from coldstart.data.batches import RankBatch
from coldstart.data.features import Coded
from coldstart.rankers.interface import Ranker, ReadingRanker
from coldstart.rankers.mlp import mlp
from coldstart.rankers.storage import load_ranker, save_ranker

WEIGHTS, CARD, RANKER = "weights.safetensors", "joint.json", "ranker"
ITEMS_PER_PASS = 4096
PLENTY = 100.0
"""Train events of an item that count as evidence 1."""


class JointRanker(nn.Module):
    """A trained ranker, taken further with more slots than the ID's.

    With `reuse` every vector stands in the item slot in turn, and the ranker's own attention and crossing read it like
    an ID row; what all of them read goes into a wider MLP, and the logits that need no MLP are averaged, with weights
    that are learned as functions of how much is known of the ID. Without `reuse` the vectors are plain features of the
    MLP. Either way it starts as the ranker it was made from, the new inputs of the MLP at zero.

    A *joint slot* is what it takes of an item: `[id | vectors | evidence]`, `(K + 1) d + 1` numbers. Histories keep
    their ID rows.

    Args:
        ranker: Taken over and changed.
        vectors: What content says of an item.
        events: [V] train events of each item.
        reuse: Whether the vectors go through attention and crossing.
    """

    events: Tensor

    def __init__(self, ranker: ReadingRanker, vectors: ItemVectors, events: Tensor, *, reuse: bool) -> None:
        super().__init__()
        self.ranker = ranker.requires_grad_(True)
        self.vectors = vectors
        self.reuse = reuse
        self.register_buffer("events", events.float())
        read, width = _inputs(ranker.mlp), ranker.width
        wider = vectors.count * (read if reuse else width) + 1
        self.mlp = mlp(read + wider, ranker.settings.hidden, ranker.settings.dropout)
        _start_as(self.mlp, ranker.mlp)
        ranker.mlp.requires_grad_(False)
        others = vectors.count if reuse else 0
        self.weight = nn.Parameter(torch.tensor([-2.0, *[0.0] * others]))
        self.weight_known = nn.Parameter(torch.tensor([8.0, *[0.0] * others]))

    @property
    def history(self) -> int:
        """Longest history a target sees, in events."""
        return self.ranker.history

    @property
    def slot_width(self) -> int:
        """Of a joint slot."""
        return (self.vectors.count + 1) * self.ranker.width + 1

    def slots(self, item_idx: Tensor, vectors: Tensor) -> Tensor:
        """Joint slots `[..., (K + 1) d + 1]` of items `[...]`, 0 where the ID is hidden, and vectors `[..., K, d]`."""
        shown = self.ranker.resolve(item_idx)
        evidence = torch.log1p(self.events[shown]) / math.log1p(PLENTY)
        known = evidence * (shown > 0)
        return torch.cat([self.ranker.id_slots(item_idx), vectors.flatten(-2), known.unsqueeze(-1)], dim=-1)

    @torch.inference_mode()
    def table(self, coarse: Tensor, states: Tensor, *, known: bool = True) -> Tensor:
        """The joint slot of every item, `[V, ...]`; unless their IDs are `known`, as if they had none.

        Args:
            coarse: [V, d] coarse proxies.
            states: [V, G, D] layer states.
            known: Whether IDs are shown.
        """
        parts = torch.split(torch.arange(len(coarse)), ITEMS_PER_PASS)
        return torch.cat([self.slots(part * known, self.vectors(coarse[part], states[part])) for part in parts])

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` of joint slots `[B, T, (K + 1) d + 1]`."""
        width, many = self.ranker.width, self.vectors.count
        ids, flat, known = torch.split(slots, [width, many * width, 1], dim=-1)
        if not self.reuse:
            logits, read = self.ranker.read(batch, ids)
            parts = torch.cat([read, flat, known], dim=-1)
        else:
            rows, targets = batch.target_idx.shape
            every = torch.cat([ids, *torch.split(flat, width, dim=-1)], dim=1)
            each, reads = self.ranker.read(_repeated(batch, many + 1), every)
            share = torch.softmax(self.weight + known * self.weight_known, dim=-1)
            logits = (each.view(rows, many + 1, targets).movedim(1, -1) * share).sum(-1)
            parts = torch.cat([*reads.view(rows, many + 1, targets, -1).unbind(1), known], dim=-1)
        out: Tensor = logits + self.mlp(parts).squeeze(-1)
        return out


def check_joint(ranker: Ranker) -> ReadingRanker:
    """The ranker, if it can be taken further.

    Raises:
        UserError: it is not in two parts.
    """
    if isinstance(ranker, ReadingRanker):
        return ranker
    raise UserError(
        f"fine.mode joint needs a ranker in two parts, of which the first can read several slots, and "
        f"{ranker.settings.kind} is none: derive it from coldstart.rankers.ReadingRanker (`read` and `mlp`), or set "
        "fine.mode: frozen"
    )


def save_joint(joint: JointRanker, path: Path, item_ids: Sequence[str], item_features: Coded | None = None) -> None:
    """Writes a joint ranker into an existing directory: its ranker as such, and the rest beside it.

    Args:
        joint: To be written.
        path: Existing directory.
        item_ids: [V - 1] the catalogue's ids; the first is item 1.
        item_features: [V] the catalogue's encoded features, if the ranker reads any.
    """
    (path / RANKER).mkdir()
    save_ranker(joint.ranker, path / RANKER, item_ids, item_features)
    kind = "content" if isinstance(joint.vectors, ContentVectors) else "proxies"
    card = {"vectors": kind, "shape": joint.vectors.shape, "reuse": joint.reuse}
    (path / CARD).write_text(json.dumps(card, indent=2))
    own = {name: value for name, value in joint.state_dict().items() if not name.startswith("ranker.")}
    save_file({name: value.contiguous().cpu() for name, value in own.items()}, path / WEIGHTS)


def load_joint(path: Path) -> JointRanker:
    """Reads a joint ranker, in eval mode, from a directory that `save_joint` wrote.

    Raises:
        UserError: files are missing or do not fit together.
    """
    if not (path / CARD).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"no joint ranker at {path}: {CARD} or {WEIGHTS} is missing; run the align_fine stage with fine.mode joint"
        )
    ranker = check_joint(load_ranker(path / RANKER))
    try:
        card = json.loads((path / CARD).read_text())
        vectors = make_vectors(card["vectors"], card["shape"])
        joint = JointRanker(ranker, vectors, torch.zeros(ranker.vocabulary), reuse=card["reuse"])
        found = joint.load_state_dict(load_file(path / WEIGHTS), strict=False)
        missing = [name for name in found.missing_keys if not name.startswith("ranker.")]
        if missing or found.unexpected_keys:
            raise KeyError(*missing, *found.unexpected_keys)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a whole joint ranker ({first}); train it anew") from error
    return joint.eval()


def _inputs(layers: nn.Sequential) -> int:
    first = layers[0]
    assert isinstance(first, nn.Linear)
    return first.in_features


@torch.no_grad()
def _start_as(wider: nn.Sequential, trained: nn.Sequential) -> None:
    """Gives an MLP the weights of a narrower one, and zeros for the inputs which that does not have."""
    for new, old in zip(wider, trained, strict=True):
        if isinstance(new, nn.Linear) and isinstance(old, nn.Linear):
            new.weight.zero_()
            new.weight[:, : old.in_features] = old.weight
            new.bias.copy_(old.bias)


def _repeated(batch: RankBatch, times: int) -> RankBatch:
    """The batch with its targets so many times behind each other: `[B, times T]`."""
    names = ("target_idx", "target_time", "visible", "label", "weight", "row", "categorical", "numeric")
    return replace(batch, **{name: torch.cat([getattr(batch, name)] * times, dim=1) for name in names})
