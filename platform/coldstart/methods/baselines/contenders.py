"""Contenders: the methods and their baselines as ways of scoring cold items, trained and selected the same way.

A contender is a scorer and the item table that it reads. Some are trained by clicks, others are regressions or
constants. Each has a grid of settings, and the setting with the best GAUC on cold validation rows is used.

Legend: `d` ID width, `D` MLLM width, `G` layer groups, `V` vocabulary (items + 1; row 0 is OOV).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch
from coldstart.data.item_table import ColumnSpec, ItemTable
from coldstart.methods.base import adapt
from coldstart.methods.baselines.content_similarity import DEFAULT_PENALTY, fit_similarity
from coldstart.methods.baselines.content_to_id_regression import content_to_id_regression
from coldstart.methods.baselines.similarity_scorer import CONTENT, TEXT, CenteredStates, SimilarityScorer
from coldstart.methods.idproxy.adaptor import content_mlp, fine_proxies, normalize_groups
from coldstart.methods.idproxy.fine_training import FrozenRankerWithProxies, align_fine, train_with_frozen_ranker
from coldstart.methods.idproxy.item_vectors import num_trainable
from coldstart.methods.idproxy.joint_ranker import check_supports_joint
from coldstart.methods.idproxy.joint_training import align_joint
from coldstart.methods.idproxy.scorers import PROXY, FrozenScorer, JointProxies, JointScorer
from coldstart.metrics.clicks import gauc
from coldstart.rankers import Ranker
from coldstart.rankers.scorer import IdScorer, RankerScorer, Scorer, drop_target_ids
from coldstart.training.cold_calibration import calibrate_table, calibration_shift, cold_validation
from coldstart.training.ctr_trainer import TrainingContext

BIAS = "bias"
Setting = Mapping[str, Any]
"""One point of a contender's grid: names and values."""


@dataclass(frozen=True)
class ContenderInputs:
    """Inputs of all contenders.

    Attributes:
        ranker: Trained, in eval mode; a contender that trains it works on a copy.
        sequences: Events of all users.
        items: The encoder's columns: coarse proxies [V, d] and layer states [V, G, D].
        texts: [V, w] text vectors of the items (`encoders.text_svd`); row 0 is zero.
        mature: [V] whether an item's ID row is a regression target.
        fine: The recipe section `fine`.
        context: Seed and metric.
    """

    ranker: Ranker
    sequences: EventSequences
    items: ItemTable
    texts: Tensor
    mature: npt.NDArray[np.bool_]
    fine: Fine
    context: TrainingContext


@dataclass(frozen=True)
class Contender:
    """A trained contender.

    Attributes:
        scorer: In eval mode.
        items: The columns that it reads; row 0 is the unknown item.
        parameters: Number of trained parameters besides the ranker's.
        epochs: Number of training epochs; 0 if not trained by clicks.
    """

    scorer: Scorer
    items: ItemTable
    parameters: int = 0
    epochs: int = 0

    def valid_gauc(self, sequences: EventSequences) -> float:
        """GAUC with all target IDs dropped, on the validation rows of `early_stopping_mask`."""

        def score(batch: RankBatch) -> Tensor:
            logits: Tensor = self.scorer(drop_target_ids(batch), self.items)
            return logits

        return cold_validation(score, sequences, gauc, history=self.scorer.max_history)()


class ItemBiasScorer(RankerScorer):
    """The ranker's logit and, for items without an ID row, a bias from content that is the same for all users.

    Args:
        ranker: The ranker.
    """

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(ranker)
        self.inputs = {BIAS: ColumnSpec("float32", (1,))}

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        bias = items.gather(batch.target_row)[BIAS].squeeze(-1)
        logits: Tensor = self.ranker(batch, self.ranker.id_slots(batch.target_idx))
        return logits + bias * ~self.ranker.trained[batch.target_idx]


class RankerWithItemBias(nn.Module):
    """The ranker's logit plus an item bias from content, the same for all users."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Logits `[B, T]` of slots `[B, T, d + 1]`: an ID row and a bias."""
        logits: Tensor = self.ranker(batch, slots[..., :-1]) + slots[..., -1]
        return logits


class ContentItemBias(nn.Module):
    """The OOV row and a bias that an MLP computes from the layer states."""

    def __init__(self, unknown: Tensor, groups: int, state_width: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("unknown", unknown)
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, hidden, 1, dropout)

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[n, d + 1]` from layer states `[n, G, D]`; the coarse proxies are ignored."""
        bias = self.mlp(normalize_groups(self.norms, states))
        return torch.cat([self.get_buffer("unknown").expand(len(bias), -1), bias], dim=-1)


def _oov(inputs: ContenderInputs, fine: Fine) -> Contender:
    return Contender(IdScorer(inputs.ranker).eval(), ItemTable({}))


def _mean_row(inputs: ContenderInputs, fine: Fine) -> Contender:
    mean = _ids(inputs.ranker)[torch.from_numpy(inputs.mature)].mean(0)
    return _calibrated(inputs, mean.repeat(len(inputs.items), 1))


def _item_effect(inputs: ContenderInputs, fine: Fine) -> Contender:
    groups, state_width = inputs.items.specs["states"].shape
    ids = _ids(inputs.ranker)
    torch.manual_seed(inputs.context.seed)
    content_bias = ContentItemBias(ids[0], groups, state_width, hidden=fine.mlp_units, dropout=fine.dropout)
    model = RankerWithItemBias(inputs.ranker)
    scorer = FrozenRankerWithProxies(content_bias, inputs.ranker, model)
    state = train_with_frozen_ranker(scorer, inputs.sequences, inputs.items, fine, inputs.context)
    with torch.no_grad():
        cold = content_bias(inputs.items.columns["coarse"], inputs.items.columns["states"])[:, -1:]

    def score(batch: RankBatch, bias: Tensor) -> Tensor:
        logits: Tensor = model(batch, torch.cat([ids[0].expand(*bias.shape[:-1], -1), bias], dim=-1))
        return logits

    cold += calibration_shift(cold, score, torch.zeros(1), inputs.sequences, history=inputs.ranker.max_history)
    cold[0] = 0.0
    return Contender(
        ItemBiasScorer(inputs.ranker).eval(), ItemTable({BIAS: cold}), num_trainable(content_bias), state.epoch
    )


def _ridge_map(inputs: ContenderInputs, fine: Fine, *, penalty: float) -> Contender:
    return _regression(inputs, "ridge", penalty)


def _mlp_map(inputs: ContenderInputs, fine: Fine, *, penalty: float) -> Contender:
    return _regression(inputs, "mlp", penalty)


def _coarse(inputs: ContenderInputs, fine: Fine, *, length: float) -> Contender:
    lengths = _ids(inputs.ranker)[torch.from_numpy(inputs.mature)].norm(dim=-1)
    return _calibrated(inputs, inputs.items.columns["coarse"] * lengths.mean() * length)


def _fine(inputs: ContenderInputs, fine: Fine) -> Contender:
    adaptor, state = align_fine(inputs.ranker, inputs.sequences, inputs.items, fine, inputs.context)
    return _in_slot(inputs, fine_proxies(adaptor, inputs.items), num_trainable(adaptor), state.epoch)


def _joint(inputs: ContenderInputs, fine: Fine, *, structure_reuse: bool, content: bool = False) -> Contender:
    """A joint ranker with proxies or, with `content`, with vectors from the layer states alone."""
    fine = fine.model_copy(update={"joint": fine.joint.model_copy(update={"structure_reuse": structure_reuse})})
    ranker = check_supports_joint(copy.deepcopy(inputs.ranker))
    joint, state = align_joint(ranker, inputs.sequences, inputs.items, fine, inputs.context, content=content)
    items = adapt(JointProxies(joint.vectors).eval(), inputs.items)
    return Contender(JointScorer(joint).eval(), items, num_trainable(joint.vectors), state.epoch)


def _similarity(inputs: ContenderInputs, fine: Fine, *, columns: Sequence[str], penalty: float) -> Contender:
    return _with_similarity(inputs, _oov(inputs, fine), columns, penalty)


def _item_effect_similarity(inputs: ContenderInputs, fine: Fine) -> Contender:
    return _with_similarity(inputs, _item_effect(inputs, fine), (TEXT, CONTENT), DEFAULT_PENALTY)


def _fine_similarity(inputs: ContenderInputs, fine: Fine) -> Contender:
    return _with_similarity(inputs, _fine(inputs, fine), (TEXT, CONTENT), DEFAULT_PENALTY)


def _with_similarity(inputs: ContenderInputs, base: Contender, columns: Sequence[str], penalty: float) -> Contender:
    """A contender with the similarity of target and history in these columns as further inputs of its scorer."""
    vectors = {TEXT: inputs.texts, **adapt(CenteredStates.of(inputs.items), inputs.items).columns}
    items = ItemTable({**base.items.columns, **{name: vectors[name] for name in columns}})
    scorer = SimilarityScorer(base.scorer, {name: vectors[name].shape[-1] for name in columns})
    fit_similarity(scorer, items, inputs.sequences, penalty=penalty, seed=inputs.context.seed)
    return replace(base, scorer=scorer.eval(), items=items, parameters=base.parameters + scorer.weights.numel())


def _calibrated(inputs: ContenderInputs, cold: Tensor) -> Contender:
    """Like `_in_slot`, for vectors that were not trained by clicks; they are calibrated like fine proxies."""
    return _in_slot(inputs, calibrate_table(cold, inputs.ranker, inputs.sequences))


def _in_slot(inputs: ContenderInputs, cold: Tensor, trained: int = 0, epochs: int = 0) -> Contender:
    """A contender that puts `cold` vectors into the item slots of the unchanged ranker."""
    cold = torch.cat([_ids(inputs.ranker)[:1], cold[1:]])
    scorer = FrozenScorer(inputs.ranker, inputs.ranker.trained.float()).eval()
    return Contender(scorer, ItemTable({PROXY: cold}), trained, epochs)


def _regression(inputs: ContenderInputs, kind: str, penalty: float) -> Contender:
    rows = content_to_id_regression(
        inputs.items.columns["states"],
        inputs.ranker.id_rows(),
        inputs.mature,
        kind=kind,
        penalty=penalty,
        seed=inputs.context.seed,
    )
    return _calibrated(inputs, rows)


def _ids(ranker: Ranker) -> Tensor:
    with torch.no_grad():
        return ranker.id_slots(torch.arange(ranker.vocab_size))


@dataclass(frozen=True)
class ContenderSpec:
    """How a contender is built.

    Attributes:
        description: For reports.
        build: Builds it with one setting of the grid.
        grid: Settings to try.
        clicks: Whether it is trained by clicks; its settings are then keys of `fine`.
        method: Whether it is a method, not a baseline.
        reads_encoder: Whether it needs the aligned encoder, whose training then counts as its own cost.
    """

    description: str
    build: Callable[..., Contender]
    grid: tuple[Setting, ...] = ({},)
    clicks: bool = False
    method: bool = False
    reads_encoder: bool = True


_CLICK_GRID: tuple[Setting, ...] = tuple(
    {"learning_rate": rate, "dropout": dropout} for rate in (1e-3, 3e-3) for dropout in (0.1, 0.3)
)
_WEIGHTED_GRID: tuple[Setting, ...] = tuple(
    {"learning_rate": rate, "frequency_half_weight": half} for rate in (1e-3, 3e-3) for half in (10.0, 1_000.0)
)
"""For contenders with item weights; as many settings as `_CLICK_GRID`."""
_SIMILARITY_GRID: tuple[Setting, ...] = tuple({"penalty": penalty} for penalty in (0.1, 1.0, 10.0, 100.0))
_PENALTY_GRID: tuple[Setting, ...] = tuple({"penalty": penalty} for penalty in (10.0, 100.0, 1_000.0, 10_000.0))

CONTENDERS: dict[str, ContenderSpec] = {
    "oov": ContenderSpec("the ranker as it is: its OOV row for every item without an ID", _oov, reads_encoder=False),
    "mean_row": ContenderSpec("the mean ID row of mature items", _mean_row, reads_encoder=False),
    "item_effect": ContenderSpec(
        "the OOV score plus an item bias from content: no personalization", _item_effect, _WEIGHTED_GRID, clicks=True
    ),
    "text_similarity": ContenderSpec(
        "the OOV score and the similarity of TF-IDF text vectors to what the user clicked and skipped",
        partial(_similarity, columns=(TEXT,)),
        _SIMILARITY_GRID,
        reads_encoder=False,
    ),
    "content_similarity": ContenderSpec(
        "the OOV score and the similarity of the encoder's vectors to what the user clicked and skipped",
        partial(_similarity, columns=(CONTENT,)),
        _SIMILARITY_GRID,
    ),
    "item_effect_similarity": ContenderSpec(
        "item_effect, and both similarities",
        _item_effect_similarity,
        _WEIGHTED_GRID,
        clicks=True,
    ),
    "ridge_map": ContenderSpec("ridge regression from layer states to ID rows (CB2CF)", _ridge_map, _PENALTY_GRID),
    "mlp_map": ContenderSpec(
        "MLP regression from layer states to ID rows (CB2CF)",
        _mlp_map,
        tuple({"penalty": penalty} for penalty in (0.01, 0.1, 1.0, 10.0)),
    ),
    "coarse": ContenderSpec(
        "coarse proxy in the ID slot, scaled to a multiple of the mean length of ID rows",
        _coarse,
        tuple({"length": length} for length in (0.5, 0.75, 1.0, 1.5)),
    ),
    "fine": ContenderSpec(
        "fine proxy in the ID slot of the frozen ranker", _fine, _WEIGHTED_GRID, clicks=True, method=True
    ),
    "fine_similarity": ContenderSpec(
        "fine, and both similarities",
        _fine_similarity,
        _WEIGHTED_GRID,
        clicks=True,
        method=True,
    ),
    "content_feature": ContenderSpec(
        "content as plain features of a ranker trained with them (NoteLLM-2 style), as many parameters as joint_plain",
        partial(_joint, structure_reuse=False, content=True),
        _CLICK_GRID,
        clicks=True,
    ),
    "content_slots": ContenderSpec(
        "content vectors in item slots of a ranker trained with them, as many parameters as joint",
        partial(_joint, structure_reuse=True, content=True),
        _CLICK_GRID,
        clicks=True,
    ),
    "joint_plain": ContenderSpec(
        "coarse and fine proxies as plain features of a ranker trained with them (v4)",
        partial(_joint, structure_reuse=False),
        _CLICK_GRID,
        clicks=True,
        method=True,
    ),
    "joint": ContenderSpec(
        "coarse and fine proxies besides the ID, through the ranker's attention and crossing (v5)",
        partial(_joint, structure_reuse=True),
        _CLICK_GRID,
        clicks=True,
        method=True,
    ),
}
"""In the order of report tables."""


def build_contender(name: str, inputs: ContenderInputs, setting: Setting) -> Contender:
    """Builds a contender of `CONTENDERS` with a setting of its grid."""
    spec = CONTENDERS[name]
    if spec.clicks:
        return spec.build(inputs, inputs.fine.model_copy(update=dict(setting)))
    return spec.build(inputs, inputs.fine, **setting)
