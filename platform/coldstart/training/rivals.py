"""Every way of scoring an item that nobody has clicked, made by one path: same data, same stopping rule, same measure.

A rival is a model and what stands in each item's slot. Some are trained by clicks, some are only fitted or looked up;
all have a grid of settings, of which the one with the best GAUC on cold validation rows is kept.

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

from coldstart.alignment.adaptor import content_mlp, fine_proxies, normalised
from coldstart.alignment.content_map import content_map
from coldstart.alignment.item_vectors import parameters
from coldstart.alignment.joint_ranker import check_joint
from coldstart.config.recipe import Fine
from coldstart.data.batches import EventSequences, RankBatch, UserWindows
from coldstart.rankers import Ranker
from coldstart.training.click_loop import Gauc, gauc_of, score_rows, slot_scorer
from coldstart.training.cold_rows import judged_rows, level, levelled
from coldstart.training.fine_loop import ProxiedRanker, align_fine, train_proxied
from coldstart.training.joint_loop import align_joint
from coldstart.training.ranker_loop import VALID

Setting = Mapping[str, Any]
"""Settings of a rival that are tried: names and values."""


@dataclass(frozen=True)
class Given:
    """What every rival may learn from.

    Attributes:
        ranker: Trained, in eval mode; a rival that changes it gets a copy of its own.
        sequences: Events of all users.
        coarse: [V, d] coarse proxies.
        states: [V, G, D] layer states.
        mature: [V] items whose ID rows are good enough to learn from.
        fine: The recipe's section.
        seed: Of weights and order.
        gauc: Per-user AUC.
    """

    ranker: Ranker
    sequences: EventSequences
    coarse: npt.NDArray[np.float32]
    states: npt.NDArray[np.float32]
    mature: npt.NDArray[np.bool_]
    fine: Fine
    seed: int
    gauc: Gauc


@dataclass(frozen=True)
class Rival:
    """A way of scoring cold items.

    Attributes:
        model: (batch, slots `[B, T, s]`) -> logits `[B, T]`.
        served: [V, s] what stands in each item's slot when it is served: the ID where it has one.
        cold: [V, s] what would stand there if the item had no ID; row 0 is an item of which nothing is known.
        parameters: Trained beside the ranker's own.
        epochs: Trained for; 0 where nothing was trained by clicks.
    """

    model: Callable[[RankBatch, Tensor], Tensor]
    served: Tensor
    cold: Tensor
    parameters: int = 0
    epochs: int = 0

    def valid_gauc(self, given: Given) -> float:
        """GAUC on the cold validation rows, or on all of them as if they were cold."""
        valid = UserWindows(given.sequences, history=given.ranker.history, splits=[VALID])
        scores = score_rows(slot_scorer(self.model, self.cold), valid)
        among = judged_rows(given.sequences, valid)
        return gauc_of(given.sequences, valid.rows, scores, given.gauc, among=among)


class Appealing(nn.Module):
    """The ranker's score of a slot plus a number: what content says of an item to every user alike."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Logits `[B, T]` of slots `[B, T, d + 1]`, an ID row and a number each."""
        logits: Tensor = self.ranker(batch, slots[..., :-1]) + slots[..., -1]
        return logits


class ContentAppeal(nn.Module):
    """The OOV row and a number that an MLP reads off the layer states."""

    def __init__(self, unknown: Tensor, groups: int, state_width: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("unknown", unknown)
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, hidden, 1, dropout)

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[n, d + 1]` of layer states `[n, G, D]`; the coarse proxies are not read."""
        said = self.mlp(normalised(self.norms, states))
        return torch.cat([self.get_buffer("unknown").expand(len(said), -1), said], dim=-1)


def _oov(given: Given, fine: Fine) -> Rival:
    ids = _ids(given.ranker)
    return Rival(given.ranker, ids, ids[:1].repeat(len(ids), 1))


def _mean_row(given: Given, fine: Fine) -> Rival:
    mean = _ids(given.ranker)[torch.from_numpy(given.mature)].mean(0)
    return _fitted(given, mean.repeat(len(given.coarse), 1))


def _appeal(given: Given, fine: Fine) -> Rival:
    groups, state_width = given.states.shape[1:]
    ids = _ids(given.ranker)
    torch.manual_seed(given.seed)
    reader = ContentAppeal(ids[0], groups, state_width, hidden=fine.hidden, dropout=fine.dropout)
    model = ProxiedRanker(reader, Appealing(given.ranker), *_content(given))
    progress = train_proxied(
        model, given.sequences, fine, history=given.ranker.history, seed=given.seed, gauc=given.gauc
    )
    with torch.no_grad():
        cold = reader(*_content(given))

    def score(batch: RankBatch, number: Tensor) -> Tensor:
        logits: Tensor = model.ranker(batch, torch.cat([ids[0].expand(*number.shape[:-1], -1), number], dim=-1))
        return logits

    cold[:, -1:] += level(cold[:, -1:], score, torch.zeros(1), given.sequences, history=given.ranker.history)
    cold[0, -1] = 0.0
    known = torch.cat([ids, torch.zeros(len(ids), 1)], dim=-1)
    served = torch.where(given.ranker.trained[:, None], known, cold)
    return Rival(model.ranker, served, cold, parameters(reader), progress.epoch)


def _ridge_map(given: Given, fine: Fine, *, penalty: float) -> Rival:
    return _mapped(given, "ridge", penalty)


def _mlp_map(given: Given, fine: Fine, *, penalty: float) -> Rival:
    return _mapped(given, "mlp", penalty)


def _coarse(given: Given, fine: Fine, *, length: float) -> Rival:
    lengths = _ids(given.ranker)[torch.from_numpy(given.mature)].norm(dim=-1)
    return _fitted(given, torch.from_numpy(given.coarse) * lengths.mean() * length)


def _fine(given: Given, fine: Fine) -> Rival:
    adaptor, progress = align_fine(
        given.ranker,
        given.sequences,
        given.coarse,
        given.states,
        fine,
        history=given.ranker.history,
        seed=given.seed,
        gauc=given.gauc,
    )
    return _in_slot(given, fine_proxies(adaptor, *_content(given)), parameters(adaptor), progress.epoch)


def _joint(given: Given, fine: Fine, *, reuse: bool, content: bool = False) -> Rival:
    """A joint ranker, by proxies or by content."""
    fine = fine.model_copy(update={"joint": fine.joint.model_copy(update={"reuse": reuse})})
    joint, progress = align_joint(
        check_joint(copy.deepcopy(given.ranker)),
        given.sequences,
        given.coarse,
        given.states,
        fine,
        seed=given.seed,
        gauc=given.gauc,
        content=content,
    )
    served, cold = (joint.table(*_content(given), known=known) for known in (True, False))
    return Rival(joint, served, cold, parameters(joint.vectors), progress.epoch)


def _fitted(given: Given, cold: Tensor) -> Rival:
    """As `_in_slot`, of vectors that no clicks taught; levelled, as fine proxies are."""
    return _in_slot(given, levelled(cold, given.ranker, given.sequences))


def _in_slot(given: Given, cold: Tensor, trained: int = 0, epochs: int = 0) -> Rival:
    """A rival whose vectors take the place of IDs in the ranker as it is."""
    ids = _ids(given.ranker)
    cold = torch.cat([ids[:1], cold[1:]])
    return Rival(given.ranker, torch.where(given.ranker.trained[:, None], ids, cold), cold, trained, epochs)


def _mapped(given: Given, kind: str, penalty: float) -> Rival:
    rows = content_map(
        torch.from_numpy(given.states),
        given.ranker.id_rows(),
        given.mature,
        kind=kind,
        penalty=penalty,
        seed=given.seed,
    )
    return _fitted(given, rows)


def _content(given: Given) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(given.coarse), torch.from_numpy(given.states)


def _ids(ranker: Ranker) -> Tensor:
    with torch.no_grad():
        return ranker.id_slots(torch.arange(ranker.vocabulary))


@dataclass(frozen=True)
class Kind:
    """A kind of rival.

    Attributes:
        meaning: For people.
        make: Makes one with a setting of the grid.
        grid: What is tried.
        clicks: Whether settings are those of training by clicks (`fine.*`), or its own.
    """

    meaning: str
    make: Callable[..., Rival]
    grid: tuple[Setting, ...] = ({},)
    clicks: bool = False


_CLICKS: tuple[Setting, ...] = tuple(
    {"learning_rate": rate, "dropout": dropout} for rate in (1e-3, 3e-3) for dropout in (0.1, 0.3)
)
_WEIGHED: tuple[Setting, ...] = tuple(
    {"learning_rate": rate, "evidence": evidence} for rate in (1e-3, 3e-3) for evidence in (10.0, 1_000.0)
)
"""Of those whose items have weights; as many."""
_PENALTIES: tuple[Setting, ...] = tuple({"penalty": penalty} for penalty in (10.0, 100.0, 1_000.0, 10_000.0))

KINDS: dict[str, Kind] = {
    "oov": Kind("the ranker as it is: its OOV row for every item without an ID", _oov),
    "mean_row": Kind("the mean ID row of mature items", _mean_row),
    "appeal": Kind("OOV plus a number read from content: appeal, no taste", _appeal, _WEIGHED, clicks=True),
    "ridge_map": Kind("ridge regression from layer states to ID rows (CB2CF)", _ridge_map, _PENALTIES),
    "mlp_map": Kind(
        "MLP regression from layer states to ID rows (CB2CF)",
        _mlp_map,
        tuple({"penalty": penalty} for penalty in (0.01, 0.1, 1.0, 10.0)),
    ),
    "coarse": Kind(
        "coarse proxy in the ID slot, at a multiple of the mean length of ID rows",
        _coarse,
        tuple({"length": length} for length in (0.5, 0.75, 1.0, 1.5)),
    ),
    "fine": Kind("fine proxy in the ID slot of the frozen ranker", _fine, _WEIGHED, clicks=True),
    "content_feature": Kind(
        "content as plain features of a ranker trained with them (NoteLLM-2 style), as wide as joint_plain",
        partial(_joint, reuse=False, content=True),
        _CLICKS,
        clicks=True,
    ),
    "content_slots": Kind(
        "content vectors in item slots of a ranker trained with them, as wide as joint",
        partial(_joint, reuse=True, content=True),
        _CLICKS,
        clicks=True,
    ),
    "joint_plain": Kind(
        "coarse and fine proxies as plain features of a ranker trained with them (v4)",
        partial(_joint, reuse=False),
        _CLICKS,
        clicks=True,
    ),
    "joint": Kind(
        "coarse and fine proxies beside the ID through the ranker's attention and crossing (v5)",
        partial(_joint, reuse=True),
        _CLICKS,
        clicks=True,
    ),
}
"""In the order of tables."""


def make_rival(name: str, given: Given, setting: Setting) -> Rival:
    """One of `KINDS` with a setting of its grid."""
    kind = KINDS[name]
    if kind.clicks:
        return kind.make(given, given.fine.model_copy(update=dict(setting)))
    return kind.make(given, given.fine, **setting)
