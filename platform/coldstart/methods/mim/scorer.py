"""CiUBM: a ranker with units for ID-, content- and fusion-interest (MIM, stage 3).

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `k` content width, `V` items + 1.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldstart.config import UserError
from coldstart.data.batches import RankBatch
from coldstart.data.features import EncodedFeatures
from coldstart.data.item_table import ItemTable
from coldstart.methods.mim.columns import CONTENT, content_column
from coldstart.methods.mim.config import Interest
from coldstart.methods.mim.interest_units import FUSIONS, ContentInterest, History
from coldstart.modules.mlp import copy_into_wider, input_size, mlp
from coldstart.modules.similarity_histogram import BINS
from coldstart.rankers.interface import InteractionRanker, Ranker, require_interaction
from coldstart.rankers.scorer import RankerScorer
from coldstart.rankers.storage import load_ranker, save_ranker

WEIGHTS, CONFIG, RANKER = "weights.safetensors", "interest.json", "ranker"


class ContentInterestScorer(RankerScorer):
    """The ranker, which is the ID-interest unit, extended by two units that read the content of target and history.

    The outputs of all units and the target's content go into one MLP, as wide as the ranker's. It starts as the
    ranker: weights of the new inputs are zero (ours).

    Args:
        ranker: Trained; it is modified in place.
        width: `k`.
        settings: Which units there are.
    """

    reads_history = True

    def __init__(self, ranker: InteractionRanker, width: int, settings: Interest) -> None:
        super().__init__(ranker.requires_grad_(True))
        self.settings = settings
        self.inputs = content_column(width)
        self.content_unit = ContentInterest(width, histogram=settings.histogram) if settings.content else None
        self.fusion_unit = None if settings.fusion == "none" else FUSIONS[settings.fusion](ranker.embedding_dim, width)
        added = width + (2 * width + 2 * BINS * settings.histogram) * settings.content
        added += ranker.embedding_dim * (self.fusion_unit is not None)
        self.mlp = mlp(input_size(ranker.mlp) + added, ranker.settings.mlp_units, ranker.settings.dropout)
        copy_into_wider(self.mlp, ranker.mlp)
        ranker.mlp.requires_grad_(False)

    @property
    def width(self) -> int:
        """`k`."""
        return self.inputs[CONTENT].shape[0]

    @property
    def id_unit(self) -> InteractionRanker:
        """The ranker."""
        assert isinstance(self.ranker, InteractionRanker)
        return self.ranker

    @property
    def id_weight(self) -> Tensor:
        """`[V]` half for an item with a trained ID row: the model uses ID and content together."""
        return super().id_weight / 2

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        slots = self.id_unit.id_slots(batch.target_idx)
        logits, interactions = self.id_unit.interact(batch, slots)
        target = items.gather(batch.target_row)[CONTENT]
        history = self._history(batch, slots, target, items.gather(batch.history_row)[CONTENT])
        found = [interactions, target]
        if self.content_unit is not None:
            interest, tiers = self.content_unit(history)
            found += [interest, interest * target, tiers]
        if self.fusion_unit is not None:
            found.append(self.fusion_unit(history))
        out: Tensor = logits + self.mlp(torch.cat(found, dim=-1)).squeeze(-1)
        return out

    def _history(self, batch: RankBatch, slots: Tensor, target: Tensor, content: Tensor) -> History:
        """The units' inputs, of targets `[B, T, k]` and history `[B, L, k]`."""
        similarity, known = similarities(target, content)
        visible, clicked = batch.history_mask & known, (batch.history_label > 0).unsqueeze(1)
        return History(
            slots,
            self.id_unit.id_slots(batch.history_idx),
            content,
            similarity,
            visible & clicked,
            visible & ~clicked,
        )


def similarities(target: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines `[B, T, L]` of targets `[B, T, k]` and history `[B, L, k]`, and where both have content."""
    known = target.any(dim=-1).unsqueeze(-1) & content.any(dim=-1).unsqueeze(1)
    return target @ content.mT, known


class MaxSimilarity(RankerScorer):
    """`max_j s_j` over the clicked history: how well content alone separates clicks (a diagnostic, not served).

    Args:
        ranker: Tells the length of histories; its weights are not used.
        width: `k`.
    """

    reads_history = True

    def __init__(self, ranker: Ranker, width: int) -> None:
        super().__init__(ranker)
        self.inputs = content_column(width)

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Largest cosine `[B, T]`; 0 without a clicked event that has content."""
        columns = (items.gather(rows)[CONTENT] for rows in (batch.target_row, batch.history_row))
        similarity, known = similarities(*columns)
        seen = batch.history_mask & known & (batch.history_label > 0).unsqueeze(1)
        largest = similarity.masked_fill(~seen, -1.0).amax(dim=-1)
        return largest.masked_fill(~seen.any(dim=-1), 0.0)


def check_supports_interest(ranker: Ranker) -> InteractionRanker:
    """Returns the ranker if it can be the ID-interest unit.

    Raises:
        UserError: it is not an `InteractionRanker`.
    """
    return require_interaction(ranker, needed_by="method.name mim", otherwise="choose another ranker.kind")


def save_scorer(
    scorer: ContentInterestScorer, path: Path, item_ids: Sequence[str], item_features: EncodedFeatures | None = None
) -> None:
    """Writes a scorer into an existing directory: its ranker in a subdirectory, the rest in own files.

    Args:
        scorer: To save.
        path: Existing directory.
        item_ids: [V - 1] the catalog's ids; the first is item 1.
        item_features: [V] the catalog's encoded features, if the ranker reads any.
    """
    (path / RANKER).mkdir()
    save_ranker(scorer.id_unit, path / RANKER, item_ids, item_features)
    config = {"width": scorer.width, "settings": scorer.settings.model_dump(mode="json")}
    (path / CONFIG).write_text(json.dumps(config, indent=2))
    save_file(_own_state(scorer), path / WEIGHTS)


def _own_state(scorer: ContentInterestScorer) -> dict[str, Tensor]:
    """The weights besides those of the ranker."""
    state = {name: value for name, value in scorer.state_dict().items() if not name.startswith("ranker.")}
    return {name: value.contiguous().cpu() for name, value in state.items()}


def read_width(path: Path) -> int:
    """`k` of the scorer in a directory."""
    return int(json.loads((path / CONFIG).read_text())["width"])


def load_scorer(path: Path) -> ContentInterestScorer:
    """Loads a scorer in eval mode from a directory that `save_scorer` wrote.

    Raises:
        UserError: a file is missing, or the files do not match each other.
    """
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(f"no scorer of MIM at {path}: {CONFIG} or {WEIGHTS} is missing; run the train_scorer stage")
    try:
        config = json.loads((path / CONFIG).read_text())
        ranker = check_supports_interest(load_ranker(path / RANKER))
        scorer = ContentInterestScorer(ranker, int(config["width"]), Interest.model_validate(config["settings"]))
        weights = load_file(path / WEIGHTS)
        if weights.keys() != _own_state(scorer).keys():
            raise KeyError(*sorted(weights.keys() ^ _own_state(scorer).keys()))
        scorer.load_state_dict(weights, strict=False)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a complete scorer of MIM ({first}); train it again") from error
    return scorer.eval()
