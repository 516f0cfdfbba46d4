"""The leak audit: finds features that contain information from the labels of valid and test events.

Two signs show a leak. A strong association alone is not a sign, because honest features can have one too.

*Label copies*: alone, the feature separates clicked from other events almost perfectly (a copy of the label, or
something that happens after a click). Context features are also compared with the label of the user's next event.

*Known chance*: the clicks on an item are its click probability plus chance. A feature may explain any share of the
probability, but a value that was fixed before the events cannot depend on the chance in them. Then the deviations of
two events of one item from the predicted rate are independent or have the same sign: their mean product is
`E[(p - predicted)^2] >= 0`. A rate that was counted over these same events includes their chance: if one event has a
click more than predicted, the others must have a click less, so the mean product is negative. The same holds for users.
The test is valid for any strength of an honest feature, and for any use of train events in building it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.errors import UserError
from coldstart.data.dataset import read_item_features, read_sequences
from coldstart.data.features import Categorical, EncodedFeatures, Feature, FeatureSchema
from coldstart.data.schema import TRAIN
from coldstart.data.sequences import Sequences

AUC_LIMIT = 0.85
"""For one feature alone. Complete rankers reach about 0.8 on click logs."""
Z_LIMIT = 4.0
"""For known chance: false alarms are at most 1 in 30 000 for a feature that predicts the item effect perfectly, and
far rarer for a weaker one."""

_PRIOR = 2.0
"""Pseudo-events of the prior on the mean label of a value."""
_MAX_EVENTS_PER_UNIT = (10, 30, 100)
"""Events of an item (or user) in a test: with few, chance is a large part; with many, its estimate is precise."""
_MIN_UNITS = 20
"""Known chance is not tested on fewer items (or users) with two events."""
_MAX_EVENTS = 2_000_000
"""Events in the audit, sampled as whole users, since one process holds them in memory."""
_SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LeakCheck:
    """The audit of one feature; a value is None if it cannot be computed.

    Attributes:
        auc: AUC of the feature alone on valid and test events.
        next_auc: The same for the label of the user's next event; context features only.
        chance: Share of the chance in labels that the feature contains; near or below 0 for an honest feature.
        z: Standard errors of `chance` above 0.
    """

    auc: float | None
    next_auc: float | None
    chance: float | None
    z: float | None

    def problem(self) -> str | None:
        """Description of the leak, or None."""
        for auc, label in ((self.auc, "the label"), (self.next_auc, "the label of the user's next event")):
            if auc is not None and auc >= AUC_LIMIT:
                return f"alone it predicts {label} of valid and test events with AUC {auc:.3f} (limit {AUC_LIMIT:g})"
        if self.z is not None and self.z >= Z_LIMIT:
            return (
                f"it contains {self.chance:.0%} of the chance in the labels of valid and test events, {self.z:.1f} "
                f"standard errors above 0 (limit {Z_LIMIT:g}): it was computed from these labels"
            )
        return None


def audit_features(dataset: Path, schema: FeatureSchema, allowlist: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Audits the features of a dataset directory.

    Args:
        dataset: The directory.
        schema: Schema of the features.
        allowlist: Names of features that may leak.

    Returns:
        For the manifest: key of a feature -> its fitted statistics and its audit.

    Raises:
        UserError: as `audit`.
    """
    if not schema:
        return {}
    item = read_item_features(dataset, schema)
    checks = audit(read_sequences(dataset, schema, item, max_events=_MAX_EVENTS), allowlist=allowlist)
    fitted: dict[str, dict[str, float]] = {one.key: {"values": len(one.values)} for one in schema.categorical}
    fitted |= {one.key: {"mean": one.mean, "scale": one.scale} for one in schema.numeric}
    return {key: fitted[key] | asdict(check) for key, check in checks.items()}


def audit(sequences: Sequences, *, allowlist: tuple[str, ...] = ()) -> dict[str, LeakCheck]:
    """Audits every feature.

    Args:
        sequences: Events with their features; a sample of users is enough.
        allowlist: Names of features that may leak.

    Returns:
        Key of a feature -> its audit.

    Raises:
        UserError: a feature that is not on the allowlist leaks.
    """
    log = _Log.of(sequences)
    features = sequences.features
    columns = features.lookup(log.user, log.item, log.position)
    checks = {}
    for feature, values in zip(features.schema.features, _columns(columns), strict=True):
        checks[feature.key] = check = log.check(feature, values)
        if (problem := check.problem()) and feature.name not in allowlist:
            raise UserError(
                f"data.files.columns.{feature.owner}_features: '{feature.name}' leaks: {problem}. Compute it only from "
                "data before the first valid event, or remove it; if you are sure that it does not leak, add it to "
                "data.files.columns.leak_allowlist"
            )
    return checks


def _columns(encoded: EncodedFeatures) -> list[Floats]:
    return [*encoded.categorical.T.astype(np.float64), *encoded.numeric.T.astype(np.float64)]


@dataclass(frozen=True)
class _Log:
    """Valid and test events. All arrays are [n], except the numbers of train events by index."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    position: NDArray[np.int64]
    when: NDArray[np.int64]
    label: Floats
    train_by_user: NDArray[np.int64]
    train_by_item: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequences) -> "_Log":
        user = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
        item = sequences.item_idx.astype(np.int64)
        train = sequences.split == TRAIN
        later = np.flatnonzero(~train)
        return cls(
            user[later],
            item[later],
            later,
            sequences.timestamp[later],
            sequences.label[later].astype(np.float64),
            np.bincount(user[train], minlength=len(sequences.offsets)),
            np.bincount(item[train], minlength=int(item.max(initial=0)) + 1),
        )

    def check(self, feature: Feature, values: Floats) -> LeakCheck:
        """Audits `values` [n] of a feature."""
        is_code = isinstance(feature, Categorical)
        follows = np.flatnonzero(self.user[1:] == self.user[:-1]) if feature.owner == "context" else np.zeros(0, int)
        chances = [
            _known_chance(unit, self.when, values, self.label, is_code, trained)
            for owner, unit, trained in (
                ("item", self.item, self.train_by_item),
                ("user", self.user, self.train_by_user),
            )
            if feature.owner == owner or (feature.owner == "context" and _is_constant(unit, values))
        ]
        chance, z = max((pair for pair in chances if pair), key=lambda pair: pair[1], default=(None, None))
        return LeakCheck(
            _auc(values, self.label, is_code), _auc(values[follows], self.label[follows + 1], is_code), chance, z
        )


def _is_constant(unit: NDArray[np.int64], values: Floats) -> bool:
    """Whether every item (or user) has only one value."""
    order = np.argsort(unit, kind="stable")
    same = unit[order][1:] == unit[order][:-1]
    return bool(same.any() and not (same & (np.diff(values[order]) != 0)).any())


def _auc(values: Floats, label: Floats, is_code: bool) -> float | None:
    """AUC of the mean label by value; each half of the events is predicted from the other half."""
    if len(np.unique(label)) < 2:
        return None
    # Takes seconds to import, and only tables with features need it.
    from sklearn.metrics import roc_auc_score

    half = np.random.default_rng(_SEED).random(len(label)) < 0.5
    return float(roc_auc_score(label, _predict(half, values, label, is_code)))


def _known_chance(
    unit: NDArray[np.int64],
    when: NDArray[np.int64],
    values: Floats,
    label: Floats,
    is_code: bool,
    trained: NDArray[np.int64],
) -> tuple[float, float] | None:
    """Share of known chance and its z, from the test with the largest z; None if there is too little data.

    The tests differ in the maximum number of events per unit (item or user), and in the units: all, or only those with
    few train events, where a leak is strongest. Events of one unit at the same time are not paired: a click on one of
    ten items that are shown together makes clicks on the others less likely.
    """
    rng = np.random.default_rng(_SEED)
    shuffled = rng.permutation(len(unit))
    shuffled = shuffled[np.argsort(unit[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(unit[shuffled], prepend=-1))
    place = np.arange(len(unit)) - np.repeat(starts, np.diff(starts, append=len(unit)))
    little_trained = trained[unit] * 4 <= np.bincount(unit)[unit] if len(unit) else np.zeros(0, bool)
    tests = []
    for rows in (np.ones(len(unit), bool), little_trained):
        for limit in _MAX_EVENTS_PER_UNIT:
            kept = shuffled[(place < limit) & rows[shuffled]]
            units, of = np.unique(unit[kept], return_inverse=True)
            half = (rng.random(len(units)) < 0.5)[of]
            if (np.bincount(of) > 1).sum() >= _MIN_UNITS:
                predicted = _predict(half, values[kept], label[kept], is_code)
                tests.append(_test(of, when[kept], predicted, label[kept]))
    tests = [test for test in tests if np.isfinite(test[1])]
    return max(tests, key=lambda test: test[1], default=None)


def _test(unit: NDArray[np.int64], when: NDArray[np.int64], predicted: Floats, label: Floats) -> tuple[float, float]:
    deviation = label - predicted
    count = np.bincount(unit)
    order = np.lexsort((when, unit))
    moments = np.flatnonzero((np.diff(unit[order], prepend=-1) != 0) | (np.diff(when[order], prepend=-1) != 0))
    same_time = np.bincount(unit[order][moments], np.add.reduceat(deviation[order], moments) ** 2)
    pairs = (np.bincount(unit, deviation) ** 2 - same_time) / count
    # Labels have this variance around predicted rates that are right.
    chance = np.bincount(unit, predicted * (1 - predicted)) / count
    error = np.sqrt((2 * (count - 1) / count * chance**2).sum())
    known = -pairs.sum()
    with np.errstate(invalid="ignore", divide="ignore"):  # where all labels are the same
        return float(known / chance[count > 1].sum()), float(known / error)


def _predict(half: NDArray[np.bool_], values: Floats, label: Floats, is_code: bool) -> Floats:
    """Mean label by value in each half of the events, estimated on the other half."""
    out = np.empty(len(label))
    for part in (half, ~half):
        out[part] = _mean_label(values[~part], label[~part], values[part], is_code)
    return out


def _mean_label(values: Floats, label: Floats, query: Floats, is_code: bool) -> Floats:
    """Mean label by code; for numbers, interpolated between the means of up to 200 equally large groups of values."""
    if not len(values):
        return np.full(len(query), 0.5)
    found, group = np.unique(values, return_inverse=True)
    if not is_code:
        ordered = np.sort(values)
        rank = np.searchsorted(ordered, found, side="left") + np.searchsorted(ordered, found, side="right")
        groups = np.clip(len(found) / 10, 20, 200)
        group = np.unique((rank / (2 * len(values)) * groups).astype(np.int64), return_inverse=True)[1][group]
    count = np.bincount(group)
    mean = label.mean()
    rate = (np.bincount(group, label) + _PRIOR * mean) / (count + _PRIOR)
    if is_code:
        place = np.minimum(np.searchsorted(found, query), len(found) - 1)
        by_code: Floats = np.where(found[place] == query, rate[place], mean)
        return by_code
    by_number: Floats = np.interp(query, np.bincount(group, values) / count, rate)
    return by_number
