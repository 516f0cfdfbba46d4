"""The scorer of SaviorRec: content vectors, corrected by codes, in attentions of both spaces, on top of a ranker.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `k` content width, `a` width of
attention, `Lq` code levels, `K` codes of a level, `V` vocabulary (items + 1; row 0 is OOV).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.data.batches import RankBatch
from coldstart.data.features import EncodedFeatures
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable
from coldstart.methods.saviorrec.config import Rank
from coldstart.modules.mlp import mlp
from coldstart.modules.target_attention import TargetAttention
from coldstart.modules.time_gap import time_gap_buckets
from coldstart.rankers.interface import InteractionRanker, Ranker, require_interaction
from coldstart.rankers.scorer import RankerScorer
from coldstart.rankers.storage import load_ranker, save_ranker

CONTENT, CODES = "content", "codes"
NO_CODE = 0
"""Code of the unknown item, in the item table; real codes are 1 to `K`."""
LAST_LAYER_STD = 0.01
"""Not zero: with a last layer of zeros, the first step would reach neither codebooks nor fusion MLP."""
CONFIG, WEIGHTS, RANKER = "saviorrec.json", "weights.safetensors", "ranker"


def content_columns(width: int) -> ColumnSpecs:
    """Column of the encoder: content vectors `[k]`."""
    return {CONTENT: ColumnSpec("float32", (width,))}


def scorer_columns(width: int, levels: int) -> ColumnSpecs:
    """Columns of the scorer: content vectors `[k]` and codes `[Lq]`."""
    return {**content_columns(width), CODES: ColumnSpec("int16", (levels,))}


class MBABlock(nn.Module):
    """Modal-Behavior Alignment **[P Fig. 2]**: adds to a content vector a correction that items share by codes.

    `mtilde = m + F(x) - F(0)`, where `x` concatenates one row of a trainable codebook per level. These codebooks are
    not the quantizer's; they start at zero, so that `mtilde = m` exactly. Subtracting `F(0)` **[I]** keeps that true
    with biases, which let gradients reach codebooks of zeros.

    Args:
        width: `k`.
        sizes: `K` of each level.
        units: Of the fusion MLP `F`; None adds the codebook rows, without an MLP.
    """

    def __init__(self, width: int, sizes: Sequence[int], units: int | None) -> None:
        super().__init__()
        # Row 0 belongs to the unknown item, and is never trained.
        self.codebooks = nn.ParameterList(torch.zeros(size + 1, width) for size in sizes)
        self.first = None if units is None else nn.Linear(len(sizes) * width, units)
        self.last = None if units is None else nn.Linear(units, width, bias=False)

    def forward(self, content: Tensor, codes: Tensor) -> Tensor:
        """Corrected vectors `[n, k]` of content vectors `[n, k]` and codes `[n, Lq]`."""
        codes = codes.long()
        if self.first is None or self.last is None:
            return content + self._sum(codes, self.codebooks)
        # The first layer is linear in each level's row, so it is applied to the codebooks instead of to every item.
        levels = torch.split(self.first.weight, content.shape[-1], dim=1)
        tables = [book @ weight.T for book, weight in zip(self.codebooks, levels, strict=True)]
        hidden = F.gelu(self.first.bias + self._sum(codes, tables)) - F.gelu(self.first.bias)
        corrected: Tensor = content + self.last(hidden)
        return corrected

    @staticmethod
    def _sum(codes: Tensor, tables: Iterable[Tensor]) -> Tensor:
        """Sum over levels of the row of each code, one table per level."""
        rows = [F.embedding(codes[:, level], table, padding_idx=NO_CODE) for level, table in enumerate(tables)]
        return torch.stack(rows).sum(0)


class SpaceAttention(nn.Module):
    """The attentions whose weights come from one space: its own values, and those of the other space.

    Args:
        width: Of the vectors of the space.
        attention_width: `a`.
        cross: Whether values of the other space are read, too.
    """

    def __init__(self, width: int, attention_width: int, *, cross: bool) -> None:
        super().__init__()
        self.width, self.cross = attention_width, cross
        self.projection = nn.Linear(width, 3 * attention_width)
        self.attention = TargetAttention(attention_width, (1 + cross) * attention_width)

    def project(self, vectors: Tensor) -> Tensor:
        """Queries, keys and values `[n, 3 a]` of vectors `[n, width]`."""
        projected: Tensor = self.projection(vectors)
        return projected

    def forward(self, target: Tensor, history: Tensor, other: Tensor, label: Tensor, time_gap: Tensor) -> Tensor:
        """Attention outputs `[B, T, a]`, or `[B, T, 2 a]` with the other space's values after the own ones.

        Args:
            target: [B, T, 3 a] from `project`.
            history: [B, L, 3 a] from `project`.
            other: [B, L, 3 a] the history in the other space.
            label: [B, L] clicked (1) or not (0).
            time_gap: [B, T, L] from `time_gap_buckets`.
        """
        query = target[..., : self.width]
        _, key, value = torch.split(history, self.width, dim=-1)
        if self.cross:
            value = torch.cat([value, other[..., -self.width :]], dim=-1)
        out: Tensor = self.attention(query, key, value, label, time_gap)
        return out


class SaviorScorer(RankerScorer):
    """A ranker, plus an MLP on four target attentions **[P Fig. 2]** over content vectors and ID embeddings.

    | attention | weights from | values |
    |---|---|---|
    | modal | `mtilde` of target and history | `mtilde` |
    | modal to behavior | the same weights | ID embeddings |
    | behavior to modal | ID embeddings of target and history | `mtilde` |
    | behavior | the same weights | ID embeddings |

    Projections, and the products of each output with the target's value that the MLP gets besides, are ours **[I]**.

    Args:
        ranker: Gives the ID embeddings, its own logit, and the input of its MLP.
        width: `k`.
        sizes: `K` of each level.
        settings: The recipe section `method.rank`.
        frozen: Whether the ranker stays unchanged.
    """

    reads_history = True
    ranker: InteractionRanker

    def __init__(
        self, ranker: InteractionRanker, width: int, sizes: Sequence[int], settings: Rank, *, frozen: bool
    ) -> None:
        super().__init__(ranker)
        self.width, self.sizes, self.settings, self.frozen = width, tuple(sizes), settings, frozen
        self.inputs = scorer_columns(width, len(self.sizes))
        ablate, a = settings.ablate, settings.attention_width
        units = None if ablate.sum_codebooks else settings.fusion_units
        self.mba = None if ablate.without_mba else MBABlock(width, self.sizes, units)
        cross = not ablate.without_cross_space
        self.modal = SpaceAttention(width, a, cross=cross)
        self.behavior = SpaceAttention(ranker.embedding_dim, a, cross=cross)
        first = ranker.mlp[0]
        assert isinstance(first, nn.Linear)
        self.mlp = mlp((2 + 4 * (1 + cross)) * a + first.in_features, settings.mlp_units, settings.dropout)
        nn.init.normal_(self.mlp[-1].weight, std=LAST_LAYER_STD)  # type: ignore[arg-type]
        self.ranker.requires_grad_(not frozen)

    @property
    def id_weight(self) -> Tensor:
        """`[V]` half for an item with a trained ID row: the model uses its ID and its content together."""
        return super().id_weight / 2

    def train(self, mode: bool = True) -> Self:
        """Switches the mode; a frozen ranker must not use dropout."""
        super().train(mode)
        if self.frozen:
            self.ranker.eval()
        return self

    def aligned(self, content: Tensor, codes: Tensor) -> Tensor:
        """`mtilde` `[n, k]` of content vectors `[n, k]` and codes `[n, Lq]`."""
        out: Tensor = content if self.mba is None else self.mba(content, codes)
        return out

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        target, history = self._modal(batch, items)
        slots = self.ranker.id_slots(batch.target_idx)
        target_id = self.behavior.project(slots)
        history_id = self.behavior.project(self.ranker.id_slots(batch.history_idx))
        time_gap = time_gap_buckets(batch.target_time, batch.history_time, batch.history_mask)
        outputs = (
            self.modal(target, history, history_id, batch.history_label, time_gap),
            self.behavior(target_id, history_id, history, batch.history_label, time_gap),
        )
        a = self.settings.attention_width
        values = (target[..., -a:], target_id[..., -a:])
        # Own values come first in each output, so those of the second attention are in reverse order.
        products = [
            part * value
            for output, order in zip(outputs, (values, values[::-1]), strict=True)
            for part, value in zip(output.split(a, dim=-1), order, strict=False)
        ]
        logits, interactions = self.ranker.interact(batch, slots)
        own: Tensor = logits + self.ranker.mlp(interactions).squeeze(-1)
        added: Tensor = self.mlp(torch.cat([*values, *outputs, *products, interactions], dim=-1))
        return own + added.squeeze(-1)

    def _modal(self, batch: RankBatch, items: ItemTable) -> tuple[Tensor, Tensor]:
        """Queries, keys and values in the content space, of the targets `[B, T, 3 a]` and the history `[B, L, 3 a]`."""
        both = torch.cat([batch.target_row.flatten(), batch.history_row.flatten()])
        rows, inverse = torch.unique(both, return_inverse=True)
        columns = items.gather(rows)
        projected = self.modal.project(self.aligned(columns[CONTENT], columns[CODES]))
        found = F.embedding(inverse, projected)
        target, history = torch.split(found, [batch.target_row.numel(), batch.history_row.numel()])
        return target.view(*batch.target_row.shape, -1), history.view(*batch.history_row.shape, -1)


def check_supports_interaction(ranker: Ranker) -> InteractionRanker:
    """Returns the ranker if a scorer can be built on it.

    Raises:
        UserError: it is not an `InteractionRanker`.
    """
    return require_interaction(ranker, needed_by="SaviorRec", otherwise="choose a built-in ranker.kind")


@dataclass(frozen=True)
class Catalog:
    """The catalog of a joint scorer's own ranker.

    Attributes:
        item_ids: [V - 1] ids; the first is item 1.
        item_features: [V] encoded features.
    """

    item_ids: Sequence[str]
    item_features: EncodedFeatures | None = None


def save_scorer(scorer: SaviorScorer, path: Path, catalog: Catalog) -> None:
    """Writes a scorer into an existing directory; with its ranker only if that was trained further.

    Args:
        scorer: The scorer.
        path: Existing directory.
        catalog: Of the ranker.
    """
    mode: Literal["frozen", "joint"] = "frozen" if scorer.frozen else "joint"
    config = {
        "mode": mode,
        "width": scorer.width,
        "sizes": scorer.sizes,
        "rank": scorer.settings.model_dump(mode="json"),
    }
    (path / CONFIG).write_text(json.dumps(config, indent=2))
    save_file({name: value.cpu().contiguous() for name, value in _own_state(scorer).items()}, path / WEIGHTS)
    if not scorer.frozen:
        (path / RANKER).mkdir()
        save_ranker(scorer.ranker, path / RANKER, catalog.item_ids, catalog.item_features)


def load_scorer(path: Path, ranker: Path) -> SaviorScorer:
    """Loads a scorer in eval mode.

    Args:
        path: Directory that `save_scorer` wrote.
        ranker: Directory of the ranker, which a scorer in frozen mode reads.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no SaviorRec scorer at {path}: {CONFIG} or {WEIGHTS} is missing; run the train_scorer stage")
    config = json.loads((path / CONFIG).read_text())
    frozen = config["mode"] == "frozen"
    base = check_supports_interaction(load_ranker(ranker if frozen else path / RANKER))
    settings = Rank.model_validate(config["rank"])
    scorer = SaviorScorer(base, config["width"], config["sizes"], settings, frozen=frozen)
    try:
        found = scorer.load_state_dict(load_file(path / WEIGHTS), strict=False)
        missing = [name for name in found.missing_keys if not name.startswith("ranker.")]
        if missing or found.unexpected_keys:
            raise KeyError(*missing, *found.unexpected_keys)
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path} does not hold a complete SaviorRec scorer ({first}); run the train_scorer stage again"
        ) from error
    return scorer.eval()


def _own_state(scorer: SaviorScorer) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in scorer.state_dict().items() if not name.startswith("ranker.")}
