"""The leak audit: finds features that know labels of valid and test events, which nobody can know before they happen.

Two signs give a feature away, and neither is a mere strong association, which honest features have as well.

*Told labels*: alone, it separates clicked from other events nearly perfectly (a copy of the label, what happens after a
click). Context features are held against the label of the user's next event too.

*Known chance*: an item's clicks are its appeal plus chance. A feature may explain any share of the appeal, but a value
that was fixed before the events knows nothing of the chance in them. Then two events of one item deviate from what the
feature promises in the same direction or independently: the mean product of their deviations is
`E[(p - promised)^2] >= 0`. A rate that was counted over these very events has used their chance up: after a click more
than promised, the others must be a click less, and the mean product is negative. So is it for users. This holds however
strong an honest feature is, and however much of train its makers looked at.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from coldstart.config.errors import UserError
from coldstart.data.contract import TRAIN
from coldstart.data.dataset import read_item_features, read_sequences
from coldstart.data.features import Categorical, Coded, Feature, FeatureSchema
from coldstart.data.sequences import Sequences

AUC_LIMIT = 0.85
"""Of one feature alone. Whole rankers reach about 0.8 on click logs."""
Z_LIMIT = 4.0
"""Of known chance: at most 1 in 30 000 for a feature that tells the appeal perfectly, far less for a weaker one."""

_PRIOR = 2.0
"""Events of prior evidence for the mean label of a value."""
_MOST = (10, 30, 100)
"""Events of an item that are looked at: in few the chance is a large part, in many it is a sure one."""
_FEWEST = 20
"""Items (or users) with two events below which known chance is not judged."""
_MOST_EVENTS = 2_000_000
"""Sampled as whole users: the audit holds them in the memory of one process."""
_SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What the audit says of a feature; None where it cannot be judged.

    Attributes:
        auc: AUC of the feature alone on valid and test events.
        next_auc: The same for the label of the user's next event; context features only.
        chance: Share of the chance in labels that the feature knows; around or below 0 for an honest one.
        z: How many standard errors that is above 0.
    """

    auc: float | None
    next_auc: float | None
    chance: float | None
    z: float | None

    def why(self) -> str | None:
        """What is wrong, or None."""
        for auc, label in ((self.auc, "the label"), (self.next_auc, "the label of the user's next event")):
            if auc is not None and auc >= AUC_LIMIT:
                return f"alone it tells {label} of valid and test events with AUC {auc:.3f} (limit {AUC_LIMIT:g})"
        if self.z is not None and self.z >= Z_LIMIT:
            return (
                f"it knows {self.chance:.0%} of the chance in the labels of valid and test events, {self.z:.1f} "
                f"standard errors above 0 (limit {Z_LIMIT:g}): it was counted over them"
            )
        return None


def judge_features(dataset: Path, schema: FeatureSchema, trusted: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What a manifest says about the features of a dataset directory: what train taught, and what the audit found.

    Args:
        dataset: The directory.
        schema: Of its features.
        trusted: Names of features that are let through.

    Raises:
        UserError: as `audit`.
    """
    if not schema:
        return {}
    item = read_item_features(dataset, schema)
    findings = audit(read_sequences(dataset, schema, item, most_events=_MOST_EVENTS), trusted=trusted)
    learnt: dict[str, dict[str, float]] = {one.key: {"values": len(one.values)} for one in schema.categorical}
    learnt |= {one.key: {"mean": one.mean, "scale": one.scale} for one in schema.numeric}
    return {key: learnt[key] | asdict(finding) for key, finding in findings.items()}


def audit(sequences: Sequences, *, trusted: tuple[str, ...] = ()) -> dict[str, Finding]:
    """Looks for labels of the future in every feature.

    Args:
        sequences: Events with their features; a sample of users will do.
        trusted: Names of features that are let through.

    Returns:
        Key of the feature -> what was found.

    Raises:
        UserError: a feature that is not trusted knows labels.
    """
    log = _Log.of(sequences)
    features = sequences.features
    columns = features.at(log.user, log.item, log.position)
    findings = {}
    for feature, values in zip(features.schema.features, _columns(columns), strict=True):
        findings[feature.key] = finding = log.judge(feature, values)
        if (why := finding.why()) and feature.name not in trusted:
            raise UserError(
                f"data.files.columns.{feature.owner}_features: '{feature.name}' leaks: {why}. Build it from what was "
                "known before the first valid event, or take it out; if you know that it is sound, name it in "
                "data.files.columns.trusted_features"
            )
    return findings


def _columns(coded: Coded) -> list[Floats]:
    return [*coded.categorical.T.astype(np.float64), *coded.numeric.T.astype(np.float64)]


@dataclass(frozen=True)
class _Log:
    """Valid and test events; all arrays [n] but the counts of train events by index."""

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

    def judge(self, feature: Feature, values: Floats) -> Finding:
        """What `values` [n] of a feature know."""
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
        chance, z = max((found for found in chances if found), key=lambda found: found[1], default=(None, None))
        return Finding(
            _auc(values, self.label, is_code), _auc(values[follows], self.label[follows + 1], is_code), chance, z
        )


def _is_constant(unit: NDArray[np.int64], values: Floats) -> bool:
    """Whether every item (user) has one value."""
    order = np.argsort(unit, kind="stable")
    same = unit[order][1:] == unit[order][:-1]
    return bool(same.any() and not (same & (np.diff(values[order]) != 0)).any())


def _auc(values: Floats, label: Floats, is_code: bool) -> float | None:
    """AUC of the mean label by value, each half of the events promised by the other."""
    if len(np.unique(label)) < 2:
        return None
    half = np.random.default_rng(_SEED).random(len(label)) < 0.5
    return float(roc_auc_score(label, _promised(half, values, label, is_code)))


def _known_chance(
    unit: NDArray[np.int64],
    when: NDArray[np.int64],
    values: Floats,
    label: Floats,
    is_code: bool,
    trained: NDArray[np.int64],
) -> tuple[float, float] | None:
    """Share of chance that is known and its z, by the surest of several looks; None if too little to look at.

    Looks differ in how many events of an item count, and in whether only those items count of which train shows little,
    where a leak is strongest. Events of one user or item at the same time are no pair: a click on one of ten that are
    shown together keeps the user from the others.
    """
    rng = np.random.default_rng(_SEED)
    shuffled = rng.permutation(len(unit))
    shuffled = shuffled[np.argsort(unit[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(unit[shuffled], prepend=-1))
    place = np.arange(len(unit)) - np.repeat(starts, np.diff(starts, append=len(unit)))
    few = trained[unit] * 4 <= np.bincount(unit)[unit] if len(unit) else np.zeros(0, bool)
    looks = []
    for rows in (np.ones(len(unit), bool), few):
        for most in _MOST:
            kept = shuffled[(place < most) & rows[shuffled]]
            found, of = np.unique(unit[kept], return_inverse=True)
            half = (rng.random(len(found)) < 0.5)[of]
            if (np.bincount(of) > 1).sum() >= _FEWEST:
                promised = _promised(half, values[kept], label[kept], is_code)
                looks.append(_look(of, when[kept], promised, label[kept]))
    looks = [look for look in looks if np.isfinite(look[1])]
    return max(looks, key=lambda look: look[1], default=None)


def _look(unit: NDArray[np.int64], when: NDArray[np.int64], promised: Floats, label: Floats) -> tuple[float, float]:
    deviation = label - promised
    count = np.bincount(unit)
    order = np.lexsort((when, unit))
    moments = np.flatnonzero((np.diff(unit[order], prepend=-1) != 0) | (np.diff(when[order], prepend=-1) != 0))
    alone = np.bincount(unit[order][moments], np.add.reduceat(deviation[order], moments) ** 2)
    pairs = (np.bincount(unit, deviation) ** 2 - alone) / count
    # Promised rates that agree with the labels have this variance around them.
    chance = np.bincount(unit, promised * (1 - promised)) / count
    error = np.sqrt((2 * (count - 1) / count * chance**2).sum())
    known = -pairs.sum()
    with np.errstate(invalid="ignore", divide="ignore"):  # where all labels are the same
        return float(known / chance[count > 1].sum()), float(known / error)


def _promised(half: NDArray[np.bool_], values: Floats, label: Floats, is_code: bool) -> Floats:
    """The label that a value promises in each half, learnt in the other."""
    out = np.empty(len(label))
    for ours in (half, ~half):
        out[ours] = _mean_label(values[~ours], label[~ours], values[ours], is_code)
    return out


def _mean_label(values: Floats, label: Floats, asked: Floats, is_code: bool) -> Floats:
    """Mean label by code; or by number, between the means of up to 200 equally large groups of neighbouring values."""
    if not len(values):
        return np.full(len(asked), 0.5)
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
        place = np.minimum(np.searchsorted(found, asked), len(found) - 1)
        known: Floats = np.where(found[place] == asked, rate[place], mean)
        return known
    between: Floats = np.interp(asked, np.bincount(group, values) / count, rate)
    return between
