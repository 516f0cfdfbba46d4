"""Rank batches: each row holds one user's history and the targets that are scored in one forward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coldstart.data.features import NO_FEATURES, EncodedFeatures, TargetFeatures
from coldstart.data.sequences import first_of_ties

Ints = npt.NDArray[np.int64]
TARGET_FIELDS = (
    "target_idx",
    "target_row",
    "target_time",
    "history_mask",
    "label",
    "weight",
    "event_index",
    "categorical",
    "numeric",
)
"""Fields of a `RankBatch` with the axis `T`."""


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """`B` user rows, each with a history of `L` events and `T` targets.

    In training the targets of a row are events of one user window; in serving they are the candidates of a request.
    Item indices are catalog indices, by which ID embeddings are looked up; 0 is OOV or padding. Item rows are rows of
    the item table, by which content is looked up; 0 is the unknown item. Offline both are equal, unless an ID is
    dropped. In serving, an item that was published a second ago has a row, but no index. Times are Unix seconds.

    Attributes:
        user_idx: [B] int64 user indices; -1 if the user is unknown.
        history_idx: [B, L] int64 item indices.
        history_row: [B, L] int64 item rows.
        history_label: [B, L] float32 clicked (1) or not (0).
        history_time: [B, L] int64.
        target_idx: [B, T] int64 item indices.
        target_row: [B, T] int64 item rows.
        target_time: [B, T] int64.
        history_mask: [B, T, L] bool, True for the history events that a target may see: strictly earlier in time,
            among the last `ranker.max_history` such events, and not padding.
        label: [B, T] float32; zeros where unknown (serving).
        weight: [B, T] float32, above 0 where the target counts (right split, not padding), else 0. It is 1 unless
            items are weighted.
        event_index: [B, T] int64 position of the target in the dataset's flat event order, or -1.
        categorical: [B, T, C] int64 codes of the features of the target's item, user and context; 0 where unknown.
        numeric: [B, T, N] float32 numeric features of the same; 0 where missing. `C` and `N` are 0 if the dataset has
            no features.
    """

    user_idx: Tensor
    history_idx: Tensor
    history_row: Tensor
    history_label: Tensor
    history_time: Tensor
    target_idx: Tensor
    target_row: Tensor
    target_time: Tensor
    history_mask: Tensor
    label: Tensor
    weight: Tensor
    event_index: Tensor
    categorical: Tensor
    numeric: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def with_ids(self, *, target_idx: Tensor, history_idx: Tensor | None = None) -> Self:
        """The same batch with other item indices; the item rows stay, so content is still that of the items."""
        history_idx = self.history_idx if history_idx is None else history_idx
        return replace(self, target_idx=target_idx, history_idx=history_idx)


class EventSequences(Protocol):
    """Every user's events, flat and time-ordered: user `u` owns positions `offsets[u]` to `offsets[u + 1]`."""

    @property
    def offsets(self) -> npt.NDArray[Any]:
        """[U + 1] positions."""

    @property
    def item_idx(self) -> npt.NDArray[Any]:
        """[events] catalog indices."""

    @property
    def label(self) -> npt.NDArray[Any]:
        """[events] 0 or 1."""

    @property
    def timestamp(self) -> npt.NDArray[Any]:
        """[events] Unix seconds, not decreasing within a user."""

    @property
    def split(self) -> npt.NDArray[Any]:
        """[events] split code."""

    @property
    def features(self) -> TargetFeatures:
        """Features of items, users and events; `NO_TARGET_FEATURES` if there are none."""


def users_of(sequences: EventSequences, positions: Ints) -> Ints:
    """User indices of flat event positions."""
    return np.searchsorted(np.asarray(sequences.offsets), positions, side="right") - 1


class UserWindows:
    """Cuts each user's events into windows; every event of the requested splits is a target in exactly one window.

    A window is a run of at most `targets` neighboring positions. The history of its row is long enough for every
    target to see the last `history` events that are strictly earlier than the target.

    Args:
        sequences: Events of all users.
        history: Maximum history length of a target.
        splits: Split codes of the events that are targets.
        targets: Maximum window length.
        item_weight: [N + 1] weight above 0 of an item's events as targets; None for 1.

    Attributes:
        weights: [windows] sum of the weights of a window's targets.
    """

    def __init__(
        self,
        sequences: EventSequences,
        *,
        history: int,
        splits: Sequence[int],
        targets: int = 64,
        item_weight: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.history = history
        offsets = np.asarray(sequences.offsets, np.int64)
        self._item = np.asarray(sequences.item_idx, np.int64)
        self._label = np.asarray(sequences.label, np.float32)
        self._time = np.asarray(sequences.timestamp, np.int64)
        self._wanted = np.isin(np.asarray(sequences.split), list(splits))
        self._features = sequences.features
        self._user = user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self._seen_end = first_of_ties(user, self._time)
        self._seen_start = np.maximum(self._seen_end - history, offsets[user])
        self._start, self._end = _cut(np.flatnonzero(self._wanted), user, targets)
        self._weight = self._wanted.astype(np.float32)
        if item_weight is not None:
            self._weight *= item_weight[self._item]
        before = np.concatenate([[0], np.cumsum(self._weight, dtype=np.float64)])
        self.weights: npt.NDArray[np.float64] = before[self._end] - before[self._start]

    def __len__(self) -> int:
        return len(self._start)

    @property
    def num_targets(self) -> int:
        """Number of targets in all windows."""
        return int(self._wanted.sum())

    @property
    def event_indices(self) -> Ints:
        """Flat positions of all targets, ascending."""
        return np.flatnonzero(self._wanted)

    def epoch_order(self, seed: int, epoch: int, *, windows_per_step: int) -> list[Ints]:
        """Global batches of one epoch: shuffled windows, grouped by similar size to reduce padding.

        The order depends only on the arguments, so any rank of any world size can compute it.
        """
        rng = np.random.default_rng((seed, epoch))
        shuffled = rng.permutation(len(self))
        pool = windows_per_step * 16
        batches: list[Ints] = []
        for first in range(0, len(shuffled), pool):
            part = shuffled[first : first + pool]
            part = part[np.argsort(self._size(part), kind="stable")]
            batches += [part[i : i + windows_per_step] for i in range(0, len(part), windows_per_step)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def epoch(
        self, seed: int, epoch: int, *, windows_per_step: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[RankBatch, float]]:
        """Yields this rank's part of every global batch, and the weight of the whole global batch."""
        for batch in self.epoch_order(seed, epoch, windows_per_step=windows_per_step):
            yield self.batch(batch[rank::world]), float(self.weights[batch].sum())

    def iter_eval(self, *, windows_per_step: int, rank: int = 0, world: int = 1) -> Iterator[RankBatch]:
        """Yields every window of this rank once, ordered by size, for scoring."""
        order = np.argsort(self._size(np.arange(len(self))), kind="stable")
        for first in range(0, len(order), windows_per_step):
            own = order[first : first + windows_per_step][rank::world]
            if len(own):
                yield self.batch(own)

    def batch(self, indices: npt.ArrayLike) -> RankBatch:
        """The rows of some windows. No indices give one row of weight 0, so that every rank can take every step."""
        index = np.asarray(indices, np.int64)
        if index.size == 0:
            spare = self.batch([0])
            return replace(
                spare, weight=torch.zeros_like(spare.weight), event_index=torch.full_like(spare.event_index, -1)
            )
        start, end = self._start[index], self._end[index]
        history_start, history_end = self._seen_start[start], self._seen_end[end - 1]
        target = start[:, None] + np.arange((end - start).max())
        real_target = target < end[:, None]
        target = np.minimum(target, end[:, None] - 1)
        past = history_start[:, None] + np.arange(max(int((history_end - history_start).max()), 1))
        real_past = past < history_end[:, None]
        counts = real_target & self._wanted[target]
        history_mask = past[:, None, :] < np.where(real_target, self._seen_end[target], 0)[:, :, None]
        history_mask &= past[:, None, :] >= self._seen_start[target][:, :, None]
        past = np.where(real_past, past, 0)
        # Padding and events of other splits get features too; they have weight 0, so nobody reads these.
        item = self._item[target]
        features = self._features.lookup(self._user[target], item, target)
        target_idx = torch.from_numpy(np.where(real_target, item, 0))
        history_idx = torch.from_numpy(np.where(real_past, self._item[past], 0))
        return RankBatch(
            user_idx=torch.from_numpy(self._user[start]),
            history_idx=history_idx,
            history_row=history_idx,
            history_label=torch.from_numpy(np.where(real_past, self._label[past], np.float32(0))),
            history_time=torch.from_numpy(np.where(real_past, self._time[past], 0)),
            target_idx=target_idx,
            target_row=target_idx,
            target_time=torch.from_numpy(self._time[target]),
            history_mask=torch.from_numpy(history_mask),
            label=torch.from_numpy(np.where(counts, self._label[target], np.float32(0))),
            weight=torch.from_numpy(np.where(counts, self._weight[target], np.float32(0))),
            event_index=torch.from_numpy(np.where(counts, target, -1)),
            categorical=torch.from_numpy(features.categorical),
            numeric=torch.from_numpy(features.numeric),
        )

    def _size(self, index: Ints) -> Ints:
        start, end = self._start[index], self._end[index]
        size: Ints = (end - start) * 100_000 + self._seen_end[end - 1] - self._seen_start[start]
        return size


def _cut(wanted: Ints, user: Ints, targets: int) -> tuple[Ints, Ints]:
    """Starts and ends of runs of at most `targets` positions of one user that cover all positions in `wanted`."""
    if not len(wanted):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    owner = user[wanted]
    new_user = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    starts: list[int] = []
    ends: list[int] = []
    for first, last in zip(new_user, [*new_user[1:], len(wanted)], strict=True):
        own = wanted[first:last]
        at = 0
        while at < len(own):
            stop = int(np.searchsorted(own, own[at] + targets))
            starts.append(int(own[at]))
            ends.append(int(own[stop - 1]) + 1)
            at = stop
    return np.array(starts, np.int64), np.array(ends, np.int64)


def rank_request(
    history_idx: npt.ArrayLike,
    history_label: npt.ArrayLike,
    history_time: npt.ArrayLike,
    candidates_idx: npt.ArrayLike,
    now: int,
    *,
    history: int,
    features: EncodedFeatures | None = None,
) -> RankBatch:
    """A batch of one row from a serving request: the user's past events and the candidates to score at `now`.

    A candidate gets the same logit as an offline row with the same past. Only the last `history` events strictly
    earlier than `now` count, in any order in the request.

    Args:
        history_idx: [L] item indices, 0 for items that the ranker does not know.
        history_label: [L] 0 or 1.
        history_time: [L] Unix seconds.
        candidates_idx: [T] item indices.
        now: Unix seconds.
        history: Maximum history length of a target.
        features: [T, C] and [T, N] features of the candidates, encoded by the ranker's schema; None if it has none.
    """
    time = np.asarray(history_time, np.int64).reshape(-1)
    order = np.argsort(time, kind="stable")
    order = order[time[order] < now][-history:]
    target = torch.from_numpy(np.asarray(candidates_idx, np.int64).reshape(1, -1))
    seen = len(order)
    pad = (0, 1 if seen == 0 else 0)

    def past(values: npt.ArrayLike, kind: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.pad(np.asarray(values, kind).reshape(-1)[order], pad)[None])

    shape = target.shape
    encoded = features or NO_FEATURES.unknown(target.numel())
    items = past(history_idx, np.int64)
    return RankBatch(
        user_idx=torch.full((1,), -1),
        history_idx=items,
        history_row=items,
        history_label=past(history_label, np.float32),
        history_time=past(time, np.int64),
        target_idx=target,
        target_row=target,
        target_time=torch.full(shape, now, dtype=torch.int64),
        history_mask=torch.full((*shape, max(seen, 1)), seen > 0),
        label=torch.zeros(shape),
        weight=torch.ones(shape),
        event_index=torch.full(shape, -1, dtype=torch.int64),
        categorical=torch.from_numpy(encoded.categorical[None]),
        numeric=torch.from_numpy(encoded.numeric[None]),
    )
