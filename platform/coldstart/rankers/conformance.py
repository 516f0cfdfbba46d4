"""Whether a ranker of the user's own meets the interface, found out by asking it about a small made-up batch.

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

MEMBERS = ("settings", "features", "trained", "vocabulary", "width", "history", "resolve", "id_slots", "id_rows")
ROWS, TARGETS, SEEN, HIDDEN = 3, 4, 5, 2
TOLERANCE = 1e-4
"""Of a logit: batches of another shape may be summed in another order."""


def faults(ranker: Ranker, again: Callable[[], Ranker]) -> list[str]:
    """What keeps a ranker from being aligned with, evaluated and served; empty when nothing does.

    Args:
        ranker: With its weights, in eval mode.
        again: Makes another one without them.
    """
    missing = [name for name in MEMBERS if not hasattr(ranker, name)]
    if missing:
        return [f"it has no {', '.join(missing)}; subclass coldstart.rankers.Ranker, which brings all of them"]
    try:
        inspect.signature(ranker.forward).bind(None, None)
    except TypeError as error:
        return [f"it has no item slot: forward(batch, slots) -> logits [B, T] does not fit its forward ({error})"]
    found = [*_table_faults(ranker)]
    if found:
        return found
    probe = _probe(ranker)
    try:
        logits = probe.logits()
    except Exception as error:
        return [f"forward(batch, slots) fails with {type(error).__name__}: {str(error).splitlines()[0]}"]
    if logits.shape != (ROWS, TARGETS) or not logits.isfinite().all():
        return [
            f"forward gives {list(logits.shape)} for {ROWS} rows of {TARGETS} targets, "
            f"{int(logits.isfinite().sum())} of them finite; it must give finite logits [B, T]"
        ]
    return [*_slot_faults(probe), *_history_faults(probe), *_batch_faults(probe), *_storage_faults(probe, again)]


@dataclass(frozen=True)
class _Probe:
    """A ranker, a batch whose last history events are not visible, and slots for it."""

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


def _probe(ranker: Ranker) -> _Probe:
    drawn = torch.Generator().manual_seed(0)
    length = SEEN + HIDDEN
    at = torch.arange(1, length + 1) * 3600

    def items(*shape: int) -> Tensor:
        return torch.randint(1, max(ranker.vocabulary, 2), shape, generator=drawn)

    # Of the events that are not visible one is tied with the targets and one comes after them.
    now = int(at[SEEN])
    codes = [torch.randint(0, size, (ROWS, TARGETS), generator=drawn) for size in ranker.features.cardinalities]
    batch = RankBatch(
        history_idx=items(ROWS, length),
        history_label=(torch.arange(length) % 2).float().expand(ROWS, -1).contiguous(),
        history_time=at.expand(ROWS, -1).contiguous(),
        target_idx=items(ROWS, TARGETS),
        target_time=torch.full((ROWS, TARGETS), now),
        visible=(at < now).expand(ROWS, TARGETS, -1).contiguous(),
        label=torch.zeros(ROWS, TARGETS),
        weight=torch.ones(ROWS, TARGETS),
        row=torch.full((ROWS, TARGETS), -1),
        categorical=torch.stack(codes, -1) if codes else torch.zeros(ROWS, TARGETS, 0, dtype=torch.int64),
        numeric=torch.randn(ROWS, TARGETS, len(ranker.features.numeric), generator=drawn),
    )
    spread = ranker.id_rows().std().clamp(min=0.1)
    return _Probe(ranker, batch, torch.randn(ROWS, TARGETS, ranker.width, generator=drawn) * spread)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def _table_faults(ranker: Ranker) -> Iterator[str]:
    rows, wanted = ranker.id_rows(), (ranker.vocabulary, ranker.width)
    if rows.shape != wanted:
        yield f"id_rows() has shape {list(rows.shape)}; it must be [V, d] = {list(wanted)}, one row per item and row 0"
        return
    if not rows.isfinite().all():
        yield f"{int((~rows.isfinite().all(1)).sum())} of its ID rows hold NaN or infinity"
    if ranker.trained.dtype != torch.bool or ranker.trained.shape != wanted[:1]:
        yield f"trained is {ranker.trained.dtype} {list(ranker.trained.shape)}; it must be a bool buffer [V]"
        return
    index = torch.arange(wanted[0])
    expected = torch.where(ranker.trained[:, None], rows, rows[:1])
    if not torch.equal(ranker.id_slots(index).detach(), expected):
        yield "id_slots does not give the row of id_rows() to trained items and row 0, the OOV row, to all others"


def _slot_faults(probe: _Probe) -> Iterator[str]:
    before, after = probe.logits(), probe.with_other_slot()
    if _same(before[0, 1], after[0, 1]):
        yield "the item slot is not used: a target's logit stays the same when its vector in `slots` changes"
        return
    others = torch.ones_like(before, dtype=torch.bool)
    others[0, 1] = False
    if not _same(before[others], after[others]):
        yield "targets see each other: a change of one target's slot changes the logits of others"
    if not _same(before, probe.changed(target_idx=probe.batch.target_idx.flip(1))):
        yield "the item is read beside the slot: logits change with batch.target_idx while `slots` stays the same"
    slots = probe.slots.clone().requires_grad_()
    logits = probe.ranker(probe.batch, slots)
    if not logits.requires_grad or not _gradient(logits, slots).any():
        yield "logits have no gradient with respect to `slots`, through which align_fine learns: detach nothing there"


def _gradient(logits: Tensor, slots: Tensor) -> Tensor:
    return torch.autograd.grad(logits.sum(), slots, allow_unused=True, materialize_grads=True)[0]


def _history_faults(probe: _Probe) -> Iterator[str]:
    before, batch = probe.logits(), probe.batch
    if _same(before, probe.changed(history_label=1 - batch.history_label)) and _same(
        before, probe.changed(history_idx=batch.history_idx.roll(1, 1))
    ):
        yield "the history is not used: logits stay the same whatever the user clicked"
    for name, other in (("history_idx", 0), ("history_label", 1), ("history_time", 10**6)):
        column = getattr(batch, name).clone()
        column[:, SEEN:] = other
        if not _same(before, probe.changed(**{name: column})):
            yield f"{name} is read where batch.visible is False: events of the same moment or later leak into the score"


def _batch_faults(probe: _Probe) -> Iterator[str]:
    before, batch = probe.logits(), probe.batch
    if not torch.equal(before, probe.logits()):
        yield "the same batch gives other logits the second time, in eval mode"
        return
    alone = replace(probe, batch=_rows(batch, slice(0, 1)), slots=probe.slots[:1])
    if not _same(before[:1], alone.logits()):
        yield "a row scores differently alone than among others"
    longer = {name: F.pad(getattr(batch, name), (0, 3)) for name in ("history_idx", "history_label", "history_time")}
    if not _same(before, probe.changed(**longer, visible=F.pad(batch.visible, (0, 3)))):
        yield "padding of the history, which is not visible, changes the score"
    nothing = probe.changed(visible=torch.zeros_like(batch.visible))
    if not nothing.isfinite().all():
        yield "a user without any visible history gets NaN or infinity"


def _rows(batch: RankBatch, which: slice) -> RankBatch:
    return RankBatch(**{name: column[which] for name, column in vars(batch).items()})


def _storage_faults(probe: _Probe, again: Callable[[], Ranker]) -> Iterator[str]:
    try:
        stored = load(save({name: value.contiguous() for name, value in probe.ranker.state_dict().items()}))
        copy = again()
        copy.load_state_dict(stored)
    except (RuntimeError, ValueError) as error:
        yield f"its state_dict cannot be stored as safetensors and read back: {str(error).splitlines()[0]}"
        return
    if not torch.equal(probe.logits(), probe.logits(copy.eval())):
        yield "a copy with the same state_dict scores differently: some weights are no parameters or buffers"
