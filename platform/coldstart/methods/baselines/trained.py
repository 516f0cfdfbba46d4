"""All variants of scoring cold items, the methods and their baselines, trained and selected the same way.

A baseline is a model and a table of item slots. Some are trained by clicks, others are regressions or constants. Each
has a grid of settings, and the setting with the best GAUC on cold validation rows is used.

Legend: `d` ID width, `D` MLLM width, `G` layer groups, `V` vocabulary (items + 1; row 0 is OOV).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.data.item_table import ItemTable
from coldstart.methods.baselines.content_to_id_regression import content_to_id_regression
from coldstart.methods.idproxy.adaptor import content_mlp, fine_proxies, normalize_groups
from coldstart.methods.idproxy.fine_training import FrozenRankerWithProxies, align_fine, train_with_frozen_ranker
from coldstart.methods.idproxy.item_vectors import num_trainable
from coldstart.methods.idproxy.joint_ranker import check_supports_joint
from coldstart.methods.idproxy.joint_training import align_joint
from coldstart.rankers import Ranker
from coldstart.training.cold_calibration import calibrate_table, calibration_shift, early_stopping_mask
from coldstart.training.ctr_trainer import TrainingContext, gauc_of, score_targets, slot_score
from coldstart.training.ranker_training import VALID

Setting = Mapping[str, Any]
"""One point of a baseline's grid: names and values."""


@dataclass(frozen=True)
class BaselineInputs:
    """Inputs of all baselines.

    Attributes:
        ranker: Trained, in eval mode; a baseline that trains it works on a copy.
        sequences: Events of all users.
        items: The encoder's columns: coarse proxies [V, d] and layer states [V, G, D].
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


@dataclass(frozen=True)
class Baseline:
    """A trained variant.

    Attributes:
        model: Maps (batch, slots `[B, T, s]`) to logits `[B, T]`.
        served: [V, s] slot of each item in serving: its ID row if it has one.
        cold: [V, s] slot of each item without an ID; row 0 is the unknown item.
        parameters: Number of trained parameters besides the ranker's.
        epochs: Number of training epochs; 0 if not trained by clicks.
    """

    model: Callable[[RankBatch, Tensor], Tensor]
    served: Tensor
    cold: Tensor
    parameters: int = 0
    epochs: int = 0

    def valid_gauc(self, inputs: BaselineInputs) -> float:
        """GAUC with the cold slots on the validation rows of `early_stopping_mask`."""
        valid = UserWindows(inputs.sequences, history=inputs.ranker.max_history, splits=[VALID])
        scores = score_targets(slot_score(self.model, self.cold), valid)
        among = early_stopping_mask(inputs.sequences, valid)
        return gauc_of(inputs.sequences, valid.event_indices, scores, inputs.context.gauc, among=among)


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


def _oov(inputs: BaselineInputs, fine: Fine) -> Baseline:
    ids = _ids(inputs.ranker)
    return Baseline(inputs.ranker, ids, ids[:1].repeat(len(ids), 1))


def _mean_row(inputs: BaselineInputs, fine: Fine) -> Baseline:
    mean = _ids(inputs.ranker)[torch.from_numpy(inputs.mature)].mean(0)
    return _calibrated(inputs, mean.repeat(len(inputs.items), 1))


def _item_effect(inputs: BaselineInputs, fine: Fine) -> Baseline:
    groups, state_width = inputs.items.specs["states"].shape
    ids = _ids(inputs.ranker)
    torch.manual_seed(inputs.context.seed)
    content_bias = ContentItemBias(ids[0], groups, state_width, hidden=fine.mlp_units, dropout=fine.dropout)
    model = RankerWithItemBias(inputs.ranker)
    scorer = FrozenRankerWithProxies(content_bias, inputs.ranker, model)
    state = train_with_frozen_ranker(scorer, inputs.sequences, inputs.items, fine, inputs.context)
    with torch.no_grad():
        cold = content_bias(inputs.items.columns["coarse"], inputs.items.columns["states"])

    def score(batch: RankBatch, bias: Tensor) -> Tensor:
        logits: Tensor = model(batch, torch.cat([ids[0].expand(*bias.shape[:-1], -1), bias], dim=-1))
        return logits

    cold[:, -1:] += calibration_shift(
        cold[:, -1:], score, torch.zeros(1), inputs.sequences, history=inputs.ranker.max_history
    )
    cold[0, -1] = 0.0
    with_id = torch.cat([ids, torch.zeros(len(ids), 1)], dim=-1)
    served = torch.where(inputs.ranker.trained[:, None], with_id, cold)
    return Baseline(model, served, cold, num_trainable(content_bias), state.epoch)


def _ridge_map(inputs: BaselineInputs, fine: Fine, *, penalty: float) -> Baseline:
    return _regression(inputs, "ridge", penalty)


def _mlp_map(inputs: BaselineInputs, fine: Fine, *, penalty: float) -> Baseline:
    return _regression(inputs, "mlp", penalty)


def _coarse(inputs: BaselineInputs, fine: Fine, *, length: float) -> Baseline:
    lengths = _ids(inputs.ranker)[torch.from_numpy(inputs.mature)].norm(dim=-1)
    return _calibrated(inputs, inputs.items.columns["coarse"] * lengths.mean() * length)


def _fine(inputs: BaselineInputs, fine: Fine) -> Baseline:
    adaptor, state = align_fine(inputs.ranker, inputs.sequences, inputs.items, fine, inputs.context)
    return _in_slot(inputs, fine_proxies(adaptor, inputs.items), num_trainable(adaptor), state.epoch)


def _joint(inputs: BaselineInputs, fine: Fine, *, structure_reuse: bool, content: bool = False) -> Baseline:
    """A joint ranker with proxies or, with `content`, with vectors from the layer states alone."""
    fine = fine.model_copy(update={"joint": fine.joint.model_copy(update={"structure_reuse": structure_reuse})})
    ranker = check_supports_joint(copy.deepcopy(inputs.ranker))
    joint, state = align_joint(ranker, inputs.sequences, inputs.items, fine, inputs.context, content=content)
    served, cold = (joint.table(inputs.items, id_visible=known) for known in (True, False))
    return Baseline(joint, served, cold, num_trainable(joint.vectors), state.epoch)


def _calibrated(inputs: BaselineInputs, cold: Tensor) -> Baseline:
    """Like `_in_slot`, for vectors that were not trained by clicks; they are calibrated like fine proxies."""
    return _in_slot(inputs, calibrate_table(cold, inputs.ranker, inputs.sequences))


def _in_slot(inputs: BaselineInputs, cold: Tensor, trained: int = 0, epochs: int = 0) -> Baseline:
    """A baseline that puts `cold` vectors into the item slots of the unchanged ranker."""
    ids = _ids(inputs.ranker)
    cold = torch.cat([ids[:1], cold[1:]])
    return Baseline(inputs.ranker, torch.where(inputs.ranker.trained[:, None], ids, cold), cold, trained, epochs)


def _regression(inputs: BaselineInputs, kind: str, penalty: float) -> Baseline:
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
class BaselineSpec:
    """How a baseline is built.

    Attributes:
        description: For reports.
        build: Builds it with one setting of the grid.
        grid: Settings to try.
        clicks: Whether it is trained by clicks; its settings are then keys of `fine`.
    """

    description: str
    build: Callable[..., Baseline]
    grid: tuple[Setting, ...] = ({},)
    clicks: bool = False


_CLICK_GRID: tuple[Setting, ...] = tuple(
    {"learning_rate": rate, "dropout": dropout} for rate in (1e-3, 3e-3) for dropout in (0.1, 0.3)
)
_WEIGHTED_GRID: tuple[Setting, ...] = tuple(
    {"learning_rate": rate, "frequency_half_weight": half} for rate in (1e-3, 3e-3) for half in (10.0, 1_000.0)
)
"""For baselines with item weights; as many settings as `_CLICK_GRID`."""
_PENALTY_GRID: tuple[Setting, ...] = tuple({"penalty": penalty} for penalty in (10.0, 100.0, 1_000.0, 10_000.0))

BASELINES: dict[str, BaselineSpec] = {
    "oov": BaselineSpec("the ranker as it is: its OOV row for every item without an ID", _oov),
    "mean_row": BaselineSpec("the mean ID row of mature items", _mean_row),
    "item_effect": BaselineSpec(
        "the OOV score plus an item bias from content: no personalization", _item_effect, _WEIGHTED_GRID, clicks=True
    ),
    "ridge_map": BaselineSpec("ridge regression from layer states to ID rows (CB2CF)", _ridge_map, _PENALTY_GRID),
    "mlp_map": BaselineSpec(
        "MLP regression from layer states to ID rows (CB2CF)",
        _mlp_map,
        tuple({"penalty": penalty} for penalty in (0.01, 0.1, 1.0, 10.0)),
    ),
    "coarse": BaselineSpec(
        "coarse proxy in the ID slot, scaled to a multiple of the mean length of ID rows",
        _coarse,
        tuple({"length": length} for length in (0.5, 0.75, 1.0, 1.5)),
    ),
    "fine": BaselineSpec("fine proxy in the ID slot of the frozen ranker", _fine, _WEIGHTED_GRID, clicks=True),
    "content_feature": BaselineSpec(
        "content as plain features of a ranker trained with them (NoteLLM-2 style), as many parameters as joint_plain",
        partial(_joint, structure_reuse=False, content=True),
        _CLICK_GRID,
        clicks=True,
    ),
    "content_slots": BaselineSpec(
        "content vectors in item slots of a ranker trained with them, as many parameters as joint",
        partial(_joint, structure_reuse=True, content=True),
        _CLICK_GRID,
        clicks=True,
    ),
    "joint_plain": BaselineSpec(
        "coarse and fine proxies as plain features of a ranker trained with them (v4)",
        partial(_joint, structure_reuse=False),
        _CLICK_GRID,
        clicks=True,
    ),
    "joint": BaselineSpec(
        "coarse and fine proxies besides the ID, through the ranker's attention and crossing (v5)",
        partial(_joint, structure_reuse=True),
        _CLICK_GRID,
        clicks=True,
    ),
}
"""In the order of report tables."""


def build_baseline(name: str, inputs: BaselineInputs, setting: Setting) -> Baseline:
    """Builds a baseline of `BASELINES` with a setting of its grid."""
    spec = BASELINES[name]
    if spec.clicks:
        return spec.build(inputs, inputs.fine.model_copy(update=dict(setting)))
    return spec.build(inputs, inputs.fine, **setting)
