"""From logits of all variants on the same rows to the summary: metrics, paired differences, origin of the gain.

GAUC ranks a row by its logit less the logit of the OOV row in the same context. Candidates of one request share user
and history, so what depends on those alone never changes a ranking. Rows of a log come from different moments, and
there it does: a running click rate falls after a skip and rises after a click, and against the rest of a finite log
that points the wrong way (labels drawn without replacement), so even the OOV row would have a GAUC far below one half
and every variant would seem to gain. Plain GAUC is kept as `gauc_plain`. Oracles read no past labels and are ranked
as they are.

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
from coldstart.evaluation.metrics import UserAucs, auc, gauc, logloss, reliability, sigmoid, user_aucs
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
        `metrics[variant][slice]`, `delta_vs_oov[variant][slice]`, and on the cold slice `gap_closed[variant]` and
        `appeal_share[variant]`.

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
    for slice_name, mask in slices(rows.train_events).items():
        part = rows.where(mask)
        scored = {name: values[mask] for name, values in logits.items()}
        found = _Resampled(part, _above_context(scored), settings, seed)
        for name, values in scored.items():
            metrics[name][slice_name] = _metrics(part, values, found, name, settings)
            if name != BASELINE:
                delta = found.difference(name, BASELINE)
                deltas[name][slice_name] = {"gauc": delta.value, "low": delta.low, "high": delta.high}
    summary: Summary = {
        "metrics": metrics,
        "delta_vs_oov": deltas,
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


def _metrics(rows: Rows, logits: Floats, found: _Resampled, name: str, settings: Evaluation) -> dict[str, Any]:
    probability = sigmoid(logits)
    single = found.single(name)
    return {
        "auc": auc(rows.label, logits),
        "gauc": single.value,
        "gauc_low": single.low,
        "gauc_high": single.high,
        "gauc_plain": gauc(rows.user, rows.label, logits),
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
    """Share of the content gap closed, and how much of each gain is appeal, on cold rows."""
    cold = slices(rows.train_events)["cold"]
    scores = _above_context({name: values[cold] for name, values in logits.items()})
    scores |= {f"appeal of {name}": np.round(values[cold], DIGITS) for name, values in appeal.items()}
    found = _Resampled(rows.where(cold), scores, settings, seed)
    gaps = {}
    if CEILING in logits:
        for name in logits:
            if name != BASELINE:
                gap = found.share((name, BASELINE), (CEILING, BASELINE))
                gaps[name] = {"value": gap.value, "low": gap.low, "high": gap.high}
    shares = {}
    for name in appeal:
        if name != BASELINE:
            only = f"appeal of {name}"
            share = found.share((only, BASELINE), (name, BASELINE))
            shares[name] = {
                "appeal": found.difference(only, BASELINE).value,
                "taste": found.difference(name, only).value,
                "share": share.value,
                "low": share.low,
                "high": share.high,
            }
    return {"gap_closed": gaps, "appeal_share": shares}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
