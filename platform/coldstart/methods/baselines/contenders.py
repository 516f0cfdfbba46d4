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
from torch import Tensor

from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ItemAdaptor, JoinedColumns, KeepColumns, adapt
from coldstart.methods.baselines.adaptors import MappedColumn, item_bias, predicted_row, same_row, scaled_proxy
from coldstart.methods.baselines.content_similarity import DEFAULT_PENALTY, fit_similarity
from coldstart.methods.baselines.content_to_id_regression import fit_content_to_id
from coldstart.methods.baselines.item_bias import (
    BIAS,
    ContentBias,
    ItemBiasScorer,
    RankerWithItemBias,
    UnknownWithBias,
)
from coldstart.methods.baselines.similarity_scorer import CONTENT, TEXT, CenteredStates, SimilarityScorer
from coldstart.methods.idproxy.fine_training import FrozenRankerWithProxies, align_fine, train_with_frozen_ranker
from coldstart.methods.idproxy.item_vectors import num_trainable
from coldstart.methods.idproxy.joint_ranker import check_supports_joint
from coldstart.methods.idproxy.joint_training import align_joint
from coldstart.methods.idproxy.scorers import (
    COARSE,
    PROXY,
    STATES,
    FineProxies,
    FrozenScorer,
    JointProxies,
    JointScorer,
)
from coldstart.metrics.clicks import gauc
from coldstart.rankers import Ranker
from coldstart.rankers.scorer import IdScorer, Scorer, drop_target_ids, unknown_targets
from coldstart.training.cold_calibration import SlotModel, calibration_shift, cold_validation
from coldstart.training.ctr_trainer import TrainingContext

Setting = Mapping[str, Any]
"""One point of a contender's grid: names and values."""
_DIGITS = 5
"""Of score differences; rounding errors must not rank rows."""


@dataclass(frozen=True)
class ContenderInputs:
    """Inputs of all contenders.

    Attributes:
        ranker: Trained, in eval mode; a contender that trains it works on a copy.
        sequences: Events of all users.
        items: The encoder's columns: text vectors [V, w], coarse proxies [V, d] and layer states [V, G, D], each if a
            contender reads it.
        mature: [V] whether an item's ID row is a regression target.
        fine: The recipe section `fine`.
        context: Seed and metric.
    """

    ranker: Ranker
    sequences: EventSequences
    items: ItemTable
    mature: npt.NDArray[np.bool_]
    fine: Fine
    context: TrainingContext

    @property
    def aligned(self) -> ItemTable:
        """The columns of the aligned encoder."""
        return self.items.select((COARSE, STATES))


@dataclass(frozen=True)
class Contender:
    """A trained contender.

    Attributes:
        adaptor: Maps the encoder's columns to those that the scorer reads, and maybe to others.
        scorer: In eval mode.
        items: The columns that the scorer reads; row 0 is the unknown item.
        parameters: Number of trained parameters besides the ranker's.
        epochs: Number of training epochs; 0 if not trained by clicks.
    """

    adaptor: ItemAdaptor
    scorer: Scorer
    items: ItemTable
    parameters: int = 0
    epochs: int = 0

    def valid_gauc(self, sequences: EventSequences) -> float:
        """Item GAUC with all target IDs dropped, on the validation rows of `early_stopping_mask`."""

        def score(batch: RankBatch) -> Tensor:
            logits: Tensor = self.scorer(drop_target_ids(batch), self.items)
            unknown: Tensor = self.scorer(unknown_targets(batch), self.items)
            return torch.round(logits - unknown, decimals=_DIGITS)

        return cold_validation(score, sequences, gauc, history=self.scorer.max_history)()


def make_contender(
    adaptor: ItemAdaptor, scorer: Scorer, encoded: ItemTable, *, parameters: int = 0, epochs: int = 0
) -> Contender:
    """A contender that reads an encoder's columns."""
    adaptor, scorer = adaptor.eval(), scorer.eval()
    return Contender(adaptor, scorer, adapt(adaptor, encoded).select(scorer.inputs), parameters, epochs)


def _oov(inputs: ContenderInputs, fine: Fine) -> Contender:
    return _with_neighbors(inputs, _id_alone(inputs), TEXT)


def _id_alone(inputs: ContenderInputs) -> Contender:
    return make_contender(KeepColumns({}), IdScorer(inputs.ranker), inputs.items)


def _mean_row(inputs: ContenderInputs, fine: Fine) -> Contender:
    mean = _ids(inputs.ranker)[torch.from_numpy(inputs.mature)].mean(0)
    return _with_neighbors(inputs, _calibrated(inputs, same_row(mean, inputs.items.specs[TEXT])), TEXT)


def _item_effect(inputs: ContenderInputs, fine: Fine) -> Contender:
    return _with_neighbors(inputs, _content_bias(inputs, fine), COARSE)


def _content_bias(inputs: ContenderInputs, fine: Fine) -> Contender:
    unknown = _ids(inputs.ranker)[0]
    torch.manual_seed(inputs.context.seed)
    states = inputs.items.specs[STATES]
    groups, state_width = states.shape
    bias = ContentBias(groups, state_width, units=fine.mlp_units, dropout=fine.dropout)
    model = RankerWithItemBias(inputs.ranker)
    scorer = FrozenRankerWithProxies(UnknownWithBias(unknown, bias), inputs.ranker, model)
    state = train_with_frozen_ranker(scorer, inputs.sequences, inputs.aligned, fine, inputs.context)
    scorer.cpu()

    def score(batch: RankBatch, bias: Tensor) -> Tensor:
        logits: Tensor = model(batch, torch.cat([unknown.expand(*bias.shape[:-1], -1), bias], dim=-1))
        return logits

    adaptor = item_bias(bias.eval(), states)
    _calibrate(inputs, adaptor, BIAS, score, torch.zeros(1))
    trained, effect = num_trainable(bias), ItemBiasScorer(inputs.ranker)
    return make_contender(adaptor, effect, inputs.items, parameters=trained, epochs=state.epoch)


def _ridge_map(inputs: ContenderInputs, fine: Fine, *, penalty: float) -> Contender:
    return _regression(inputs, "ridge", penalty)


def _mlp_map(inputs: ContenderInputs, fine: Fine, *, penalty: float) -> Contender:
    return _regression(inputs, "mlp", penalty)


def _coarse(inputs: ContenderInputs, fine: Fine, *, length: float) -> Contender:
    lengths = _ids(inputs.ranker)[torch.from_numpy(inputs.mature)].norm(dim=-1)
    return _calibrated(inputs, scaled_proxy(lengths.mean() * length, inputs.items.specs[COARSE]))


def _fine(inputs: ContenderInputs, fine: Fine) -> Contender:
    adaptor, state = align_fine(inputs.ranker, inputs.sequences, inputs.aligned, fine, inputs.context)
    return _in_slot(inputs, FineProxies(adaptor), num_trainable(adaptor), state.epoch)


def _joint(inputs: ContenderInputs, fine: Fine, *, structure_reuse: bool, content: bool = False) -> Contender:
    """A joint ranker with proxies or, with `content`, with vectors from the layer states alone."""
    fine = fine.model_copy(update={"joint": fine.joint.model_copy(update={"structure_reuse": structure_reuse})})
    ranker = check_supports_joint(copy.deepcopy(inputs.ranker))
    joint, state = align_joint(ranker, inputs.sequences, inputs.aligned, fine, inputs.context, content=content)
    parameters = num_trainable(joint.vectors)
    return make_contender(
        JointProxies(joint.vectors), JointScorer(joint), inputs.items, parameters=parameters, epochs=state.epoch
    )


def _similarity(inputs: ContenderInputs, fine: Fine, *, columns: Sequence[str], penalty: float) -> Contender:
    return _with_similarity(inputs, _id_alone(inputs), columns, penalty)


def _item_effect_similarity(inputs: ContenderInputs, fine: Fine) -> Contender:
    return _with_similarity(inputs, _content_bias(inputs, fine), (TEXT, CONTENT), DEFAULT_PENALTY)


def _fine_similarity(inputs: ContenderInputs, fine: Fine) -> Contender:
    return _with_similarity(inputs, _fine(inputs, fine), (TEXT, CONTENT), DEFAULT_PENALTY)


def _with_similarity(inputs: ContenderInputs, base: Contender, columns: Sequence[str], penalty: float) -> Contender:
    """A contender with the similarity of target and history in these columns as further inputs of its scorer."""
    vectors: dict[str, Callable[[], ItemAdaptor]] = {
        TEXT: lambda: _keep(inputs, TEXT),
        CONTENT: lambda: CenteredStates.of(inputs.items),
    }
    adaptor = JoinedColumns(base.adaptor, *(vectors[name]() for name in columns))
    scorer = SimilarityScorer(base.scorer, {name: adaptor.outputs[name].shape[0] for name in columns})
    found = make_contender(
        adaptor, scorer, inputs.items, parameters=base.parameters + scorer.weights.numel(), epochs=base.epochs
    )
    fit_similarity(scorer, found.items, inputs.sequences, penalty=penalty, seed=inputs.context.seed)
    return found


def _with_neighbors(inputs: ContenderInputs, base: Contender, column: str) -> Contender:
    """A contender that is served with a column of the encoder, by which similar items are found."""
    return replace(base, adaptor=JoinedColumns(base.adaptor, _keep(inputs, column)).eval())


def _keep(inputs: ContenderInputs, column: str) -> KeepColumns:
    return KeepColumns({column: inputs.items.specs[column]})


def _calibrated(inputs: ContenderInputs, adaptor: MappedColumn) -> Contender:
    """Like `_in_slot`, for vectors that were not trained by clicks; they are calibrated like fine proxies."""
    _calibrate(inputs, adaptor, PROXY, inputs.ranker, inputs.ranker.id_rows()[0])
    return _in_slot(inputs, adaptor)


def _calibrate(inputs: ContenderInputs, adaptor: MappedColumn, column: str, model: SlotModel, unknown: Tensor) -> None:
    """Shifts what an adaptor writes, so that cold items have the mean CTR of the OOV prediction."""
    # Copied, because gradients cannot be taken of tensors from inference mode.
    table = adapt(adaptor, inputs.items).columns[column].clone()
    shift = calibration_shift(table, model, unknown, inputs.sequences, history=inputs.ranker.max_history)
    adaptor.shift.add_(shift)


def _in_slot(inputs: ContenderInputs, adaptor: ItemAdaptor, trained: int = 0, epochs: int = 0) -> Contender:
    """A contender that puts vectors into the item slots of the unchanged ranker, if an item has no ID row."""
    scorer = FrozenScorer(inputs.ranker, inputs.ranker.trained.float())
    return make_contender(adaptor, scorer, inputs.items, parameters=trained, epochs=epochs)


def _regression(inputs: ContenderInputs, kind: str, penalty: float) -> Contender:
    states, rows = inputs.items.columns[STATES], inputs.ranker.id_rows()
    options: dict[str, Any] = {"kind": kind, "penalty": penalty, "seed": inputs.context.seed}
    regression = fit_content_to_id(states, rows, inputs.mature, **options)
    return _calibrated(inputs, predicted_row(regression, inputs.items.specs[STATES]))


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
