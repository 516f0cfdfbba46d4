"""Checks whether a custom ranker meets the interface, with a small synthetic batch.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `V` vocabulary, `C` categorical and `N` numeric features.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from coldstart.data.batches import RankBatch
from coldstart.rankers.interface import Ranker

MEMBERS = (
    "settings",
    "features",
    "trained",
    "vocab_size",
    "embedding_dim",
    "max_history",
    "resolve",
    "id_slots",
    "id_rows",
)
ROWS, TARGETS, VISIBLE, HIDDEN = 3, 4, 5, 2
TOLERANCE = 1e-4
"""Of a logit: the order of summation may depend on the shape of the batch."""


def check_interface(ranker: Ranker, create: Callable[[], Ranker]) -> list[str]:
    """Problems that prevent alignment, evaluation or serving of a ranker; empty if there are none.

    Args:
        ranker: With its weights, in eval mode.
        create: Creates another one without the weights.
    """
    missing = [name for name in MEMBERS if not hasattr(ranker, name)]
    if missing:
        return [f"it has no {', '.join(missing)}; subclass coldstart.rankers.Ranker, which has all of them"]
    try:
        inspect.signature(ranker.forward).bind(None, None)
    except TypeError as error:
        return [f"it has no item slot: forward(batch, slots) -> logits [B, T] does not match its forward ({error})"]
    problems = [*_table_problems(ranker)]
    if problems:
        return problems
    case = _check_case(ranker)
    try:
        logits = case.logits()
    except Exception as error:
        return [f"forward(batch, slots) fails with {type(error).__name__}: {str(error).splitlines()[0]}"]
    if logits.shape != (ROWS, TARGETS) or not logits.isfinite().all():
        return [
            f"forward returns shape {list(logits.shape)} for {ROWS} rows of {TARGETS} targets, "
            f"{int(logits.isfinite().sum())} of the logits are finite; it must return finite logits [B, T]"
        ]
    return [
        *_slot_problems(case),
        *_history_problems(case),
        *_batch_problems(case),
        *_storage_problems(case, create),
    ]


@dataclass(frozen=True)
class _CheckCase:
    """A ranker, a batch whose last history events are masked, and slots for its targets."""

    ranker: Ranker
    batch: RankBatch
    slots: Tensor

    @torch.no_grad()
    def logits(self, ranker: Ranker | None = None) -> Tensor:
        out: Tensor = (ranker or self.ranker)(self.batch, self.slots)
        return out

    def changed(self, **columns: Tensor) -> Tensor:
        return replace(self, batch=replace(self.batch, **columns)).logits()

    def with_other_slot(self) -> Tensor:
        slots = self.slots.clone()
        slots[0, 1] = slots[0, 1].flip(0) + slots.std().clamp(min=0.1)
        return replace(self, slots=slots).logits()


def _check_case(ranker: Ranker) -> _CheckCase:
    generator = torch.Generator().manual_seed(0)
    length = VISIBLE + HIDDEN
    at = torch.arange(1, length + 1) * 3600

    def items(*shape: int) -> Tensor:
        return torch.randint(1, max(ranker.vocab_size, 2), shape, generator=generator)

    # One masked event has the time of the targets, the other is later.
    now = int(at[VISIBLE])
    codes = [torch.randint(0, size, (ROWS, TARGETS), generator=generator) for size in ranker.features.cardinalities]
    history, target = items(ROWS, length), items(ROWS, TARGETS)
    batch = RankBatch(
        user_idx=torch.full((ROWS,), -1),
        history_idx=history,
        history_row=history,
        history_label=(torch.arange(length) % 2).float().expand(ROWS, -1).contiguous(),
        history_time=at.expand(ROWS, -1).contiguous(),
        target_idx=target,
        target_row=target,
        target_time=torch.full((ROWS, TARGETS), now),
        history_mask=(at < now).expand(ROWS, TARGETS, -1).contiguous(),
        label=torch.zeros(ROWS, TARGETS),
        weight=torch.ones(ROWS, TARGETS),
        event_index=torch.full((ROWS, TARGETS), -1),
        categorical=torch.stack(codes, -1) if codes else torch.zeros(ROWS, TARGETS, 0, dtype=torch.int64),
        numeric=torch.randn(ROWS, TARGETS, len(ranker.features.numeric), generator=generator),
    )
    spread = ranker.id_rows().std().clamp(min=0.1)
    return _CheckCase(ranker, batch, torch.randn(ROWS, TARGETS, ranker.embedding_dim, generator=generator) * spread)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def _table_problems(ranker: Ranker) -> Iterator[str]:
    rows, shape = ranker.id_rows(), (ranker.vocab_size, ranker.embedding_dim)
    if rows.shape != shape:
        yield f"id_rows() has shape {list(rows.shape)}; it must be [V, d] = {list(shape)}, one row per item and row 0"
        return
    if not rows.isfinite().all():
        yield f"{int((~rows.isfinite().all(1)).sum())} of its ID rows contain NaN or infinity"
    if ranker.trained.dtype != torch.bool or ranker.trained.shape != shape[:1]:
        yield f"trained is {ranker.trained.dtype} {list(ranker.trained.shape)}; it must be a bool buffer [V]"
        return
    index = torch.arange(shape[0])
    expected = torch.where(ranker.trained[:, None], rows, rows[:1])
    if not torch.equal(ranker.id_slots(index).detach(), expected):
        yield "id_slots does not return the row of id_rows() for trained items and row 0, the OOV row, for all others"


def _slot_problems(case: _CheckCase) -> Iterator[str]:
    before, after = case.logits(), case.with_other_slot()
    if _same(before[0, 1], after[0, 1]):
        yield "the item slot is not used: a target's logit stays the same when its vector in `slots` changes"
        return
    others = torch.ones_like(before, dtype=torch.bool)
    others[0, 1] = False
    if not _same(before[others], after[others]):
        yield "targets influence each other: a change of one target's slot changes the logits of others"
    if not _same(before, case.changed(target_idx=case.batch.target_idx.flip(1))):
        yield "the item is not read from the slot alone: logits change with batch.target_idx for the same `slots`"
    slots = case.slots.clone().requires_grad_()
    logits = case.ranker(case.batch, slots)
    if not logits.requires_grad or not _gradient(logits, slots).any():
        yield "logits have no gradient with respect to `slots`, which align_fine needs; do not detach `slots`"


def _gradient(logits: Tensor, slots: Tensor) -> Tensor:
    return torch.autograd.grad(logits.sum(), slots, allow_unused=True, materialize_grads=True)[0]


def _history_problems(case: _CheckCase) -> Iterator[str]:
    before, batch = case.logits(), case.batch
    if _same(before, case.changed(history_label=1 - batch.history_label)) and _same(
        before, case.changed(history_idx=batch.history_idx.roll(1, 1))
    ):
        yield "the history is not used: logits stay the same whatever the user clicked"
    for name, other in (("history_idx", 0), ("history_label", 1), ("history_time", 10**6)):
        column = getattr(batch, name).clone()
        column[:, VISIBLE:] = other
        if not _same(before, case.changed(**{name: column})):
            yield f"{name} is read where batch.history_mask is False: events at or after the target's time leak in"


def _batch_problems(case: _CheckCase) -> Iterator[str]:
    before, batch = case.logits(), case.batch
    if not torch.equal(before, case.logits()):
        yield "two forward passes of the same batch give different logits in eval mode"
        return
    alone = replace(case, batch=_rows(batch, slice(0, 1)), slots=case.slots[:1])
    if not _same(before[:1], alone.logits()):
        yield "the score of a row depends on the other rows of its batch"
    names = ("history_idx", "history_row", "history_label", "history_time")
    longer = {name: F.pad(getattr(batch, name), (0, 3)) for name in names}
    if not _same(before, case.changed(**longer, history_mask=F.pad(batch.history_mask, (0, 3)))):
        yield "padding of the history, which is masked, changes the score"
    no_history = case.changed(history_mask=torch.zeros_like(batch.history_mask))
    if not no_history.isfinite().all():
        yield "a user without visible history gets NaN or infinity"


def _rows(batch: RankBatch, which: slice) -> RankBatch:
    return RankBatch(**{name: column[which] for name, column in vars(batch).items()})


def _storage_problems(case: _CheckCase, create: Callable[[], Ranker]) -> Iterator[str]:
    try:
        stored = load(save({name: value.contiguous() for name, value in case.ranker.state_dict().items()}))
        copy = create()
        copy.load_state_dict(stored)
    except (RuntimeError, ValueError) as error:
        yield f"its state_dict cannot be saved as safetensors and loaded again: {str(error).splitlines()[0]}"
        return
    if not torch.equal(case.logits(), case.logits(copy.eval())):
        yield "a copy with the same state_dict scores differently: some weights are not parameters or buffers"
