"""From logits of all variants on the same rows to the summary: metrics, paired differences, origin of the gain.

Two GAUCs stand side by side. `gauc` is the standard one: rows ranked by the score as it is served. `gauc_item` ranks a
row by its logit less the logit of the OOV row in the same context. Candidates of one request share user and history, so
what depends on those alone never changes a ranking. Rows of a log come from different moments, and there it does: a
running click rate falls after a skip and rises after a click, and against the rest of a finite log that points the
wrong way (labels drawn without replacement). So the standard GAUC of the OOV row can lie far below one half, and every
variant seems to gain more than its slot adds; `gauc_item` is the careful reading, and the one that gains are split by.
Oracles read no past labels and are ranked as they are.

Legend: `n` rows, `K` variants, `u` users.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config import UserError
from coldstart.config.recipe import Evaluation
from coldstart.evaluation.intervals import Interval, interval, resample
from coldstart.evaluation.metrics import UserAucs, auc, logloss, reliability, sigmoid, user_aucs
from coldstart.evaluation.slices import slices
from coldstart.evaluation.variants import BASELINE, ORACLES

Floats = NDArray[np.floating]
Summary = dict[str, Any]
CEILING = "content_oracle"
DIGITS = 5
"""Decimals of a score that count; float noise between equal slots must not break their tie."""


@dataclass(frozen=True)
class Rows:
    """The evaluated rows, `[n]` each.

    Attributes:
        user: User indices.
        label: 0 or 1.
        train_events: Train events of the row's item.
    """

    user: NDArray[np.integer]
    label: NDArray[np.integer]
    train_events: NDArray[np.integer]

    def where(self, mask: NDArray[np.bool_]) -> "Rows":
        """The rows of a slice."""
        return Rows(self.user[mask], self.label[mask], self.train_events[mask])


def summarise(
    rows: Rows, logits: Mapping[str, Floats], appeal: Mapping[str, Floats], settings: Evaluation, *, seed: int
) -> Summary:
    """Everything the report shows, ready for JSON: figures that are not defined are `None`.

    Args:
        rows: The evaluated rows.
        logits: Variant -> [n] logits; must hold `oov`.
        appeal: Variant -> [n] logits that are the same for every user; variants may be left out, and only cold rows
            are read.
        settings: Intervals and calibration.
        seed: Of the resampling.

    Returns:
        `metrics[variant][slice]`; `delta_vs_oov[variant][slice]` of `gauc` and `delta_item_vs_oov` of `gauc_item`; and
        on the cold slice `gap_closed[variant]`, `gap_closed_item[variant]` and `appeal_share[variant]`.

    Raises:
        UserError: a variant scored a row with something that is not a number.
    """
    for kind, scored in (("logits", logits), ("appeal", appeal)):
        for name, values in scored.items():
            read = values if kind == "logits" else values[slices(rows.train_events)["cold"]]
            if not np.isfinite(read).all():
                bad = int((~np.isfinite(read)).sum())
                raise UserError(
                    f"variant '{name}': {bad} of {len(read)} {kind} are not finite; its slot table or the ranker holds "
                    "NaN or infinity, train that stage again with a lower learning rate"
                )
    metrics: dict[str, dict[str, Any]] = {name: {} for name in logits}
    deltas: dict[str, dict[str, Any]] = {name: {} for name in logits if name != BASELINE}
    item_deltas: dict[str, dict[str, Any]] = {name: {} for name in deltas}
    for slice_name, mask in slices(rows.train_events).items():
        part = rows.where(mask)
        scored = {name: values[mask] for name, values in logits.items()}
        served = _Resampled(part, scored, settings, seed)
        by_item = _Resampled(part, _above_context(scored), settings, seed)
        for name, values in scored.items():
            metrics[name][slice_name] = _metrics(part, values, served.single(name), by_item, name, settings)
            if name != BASELINE:
                deltas[name][slice_name] = _figures("gauc", served.difference(name, BASELINE))
                item_deltas[name][slice_name] = _figures("gauc", by_item.difference(name, BASELINE))
    summary: Summary = {
        "metrics": metrics,
        "delta_vs_oov": deltas,
        "delta_item_vs_oov": item_deltas,
        **_origin(rows, logits, appeal, settings, seed),
        "confidence": settings.confidence,
        "resamples": settings.bootstrap,
        "seed": seed,
    }
    return {key: _without_nan(value) for key, value in summary.items()}


def _above_context(logits: Mapping[str, Floats]) -> dict[str, Floats]:
    """What the slot adds to each row's logit."""
    context = logits[BASELINE]
    return {name: np.round(v if name in ORACLES else v - context, DIGITS) for name, v in logits.items()}


class _Resampled:
    """Per-user AUCs of several scores on the same rows, and their GAUC on the same resamples."""

    def __init__(self, rows: Rows, scores: Mapping[str, Floats], settings: Evaluation, seed: int) -> None:
        self.aucs: dict[str, UserAucs] = {name: user_aucs(rows.user, rows.label, s) for name, s in scores.items()}
        self._at = {name: place for place, name in enumerate(scores)}
        first = next(iter(self.aucs.values()))
        self._draws = resample(
            np.stack([found.auc for found in self.aucs.values()]),
            first.weight,
            resamples=settings.bootstrap,
            seed=seed,
        )
        self._confidence = settings.confidence

    def draws(self, name: str) -> NDArray[np.float64]:
        return self._draws[:, self._at[name]]

    def single(self, name: str) -> Interval:
        return self._interval(self.aucs[name].mean, self.draws(name))

    def difference(self, name: str, other: str) -> Interval:
        value = self.aucs[name].mean - self.aucs[other].mean
        return self._interval(value, self.draws(name) - self.draws(other))

    def share(self, part: tuple[str, str], whole: tuple[str, str]) -> Interval:
        """The difference `part` as a share of the difference `whole`; not defined unless the whole is above zero."""
        if not self.difference(*whole).low > 0:
            return Interval(math.nan, math.nan, math.nan)
        value = self.difference(*part).value / self.difference(*whole).value
        drawn = (self.draws(part[0]) - self.draws(part[1])) / (self.draws(whole[0]) - self.draws(whole[1]))
        return self._interval(value, drawn)

    def _interval(self, value: float, draws: NDArray[np.float64]) -> Interval:
        return interval(value, draws, confidence=self._confidence)


def _figures(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, "low": found.low, "high": found.high}


def _metrics(
    rows: Rows, logits: Floats, served: Interval, found: _Resampled, name: str, settings: Evaluation
) -> dict[str, Any]:
    probability = sigmoid(logits)
    by_item = found.single(name)
    return {
        "auc": auc(rows.label, logits),
        "gauc": served.value,
        "gauc_low": served.low,
        "gauc_high": served.high,
        "gauc_item": by_item.value,
        "gauc_item_low": by_item.low,
        "gauc_item_high": by_item.high,
        "logloss": logloss(rows.label, probability),
        "ece": reliability(rows.label, probability, bins=settings.calibration_bins).error,
        "rows": len(rows.label),
        "positives": int(rows.label.sum()),
        "users": len(found.aucs[name].user),
        "users_left_out": found.aucs[name].left_out,
    }


def _origin(
    rows: Rows, logits: Mapping[str, Floats], appeal: Mapping[str, Floats], settings: Evaluation, seed: int
) -> Summary:
    """Share of the content gap closed, and how much of each item gain is appeal, on cold rows."""
    cold = slices(rows.train_events)["cold"]
    part = rows.where(cold)
    scored = {name: values[cold] for name, values in logits.items()}
    only = {f"appeal of {name}": np.round(values[cold], DIGITS) for name, values in appeal.items()}
    served = _Resampled(part, scored, settings, seed)
    by_item = _Resampled(part, _above_context(scored) | only, settings, seed)
    shares = {}
    for name in appeal:
        if name != BASELINE:
            only_appeal = f"appeal of {name}"
            shares[name] = {
                "appeal": by_item.difference(only_appeal, BASELINE).value,
                "taste": by_item.difference(name, only_appeal).value,
                **_figures("share", by_item.share((only_appeal, BASELINE), (name, BASELINE))),
            }
    return {
        "gap_closed": _gaps(served, logits),
        "gap_closed_item": _gaps(by_item, logits),
        "appeal_share": shares,
    }


def _gaps(found: _Resampled, logits: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    if CEILING not in logits:
        return {}
    whole = (CEILING, BASELINE)
    return {name: _figures("value", found.share((name, BASELINE), whole)) for name in logits if name != BASELINE}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
