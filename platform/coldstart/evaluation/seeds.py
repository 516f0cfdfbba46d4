"""Several training seeds on the same rows: means, spread between seeds, and intervals that hold users and seeds.

Method: hierarchical bootstrap, seeds and users crossed, since every seed ranks the same rows of the same users. A
resample draws users once, for all seeds and scores, and then seeds with replacement. The mean over few drawn seeds
varies too little, by (S - 1) / S, and few seeds know their own spread badly, so deviations between seeds are stretched
by sqrt(S / (S - 1)) (Rao and Wu 1988) and by Student's t with S - 1 degrees of freedom over the normal at the asked
confidence. With two seeds that is wide, as it should be.

Legend: `S` seeds, `R` resamples, `M` scores.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from coldstart.config import UserError
from coldstart.evaluation.comparisons import METRICS, PAIRS
from coldstart.evaluation.intervals import corrected, interval, resample, tested
from coldstart.evaluation.runs import EvaluatedRun, RankedUsers, scores_by_metric, why_not_paired
from coldstart.evaluation.slices import SLICES, slices
from coldstart.evaluation.summary import without_nan

Floats = NDArray[np.float64]
OTHERS = ("auc", "logloss", "ece", "ndcg", "recall")
"""Metrics of which the mean and the spread are told, without an interval."""


def over_seeds(runs: Mapping[int, EvaluatedRun]) -> dict[str, Any]:
    """Aggregates one evaluation per seed, ready for JSON: figures that are not defined are `None`.

    Args:
        runs: Seed -> its run, two or more; settings of the intervals are the first one's.

    Returns:
        `seeds`; `metrics[variant][slice][metric]` of value (mean over seeds), spread (standard deviation between
        seeds), by_seed, and for `gauc` and `gauc_item` low and high; `comparisons`, the pairs of an evaluation with
        delta, low, high, spread, by_seed, ranges, p, p_holm (per slice, metric and opponent) and mde; `modalities`,
        reading -> gain and lacks, each of value, spread, by_seed and ranges, None if a seed has not measured them.

    Raises:
        UserError: two runs did not evaluate the very same rows.
    """
    (first_seed, first), *others = runs.items()
    for seed, run in others:
        if reason := why_not_paired(first, run):
            raise UserError(f"seeds {first_seed} and {seed} cannot be put together: {reason}; evaluate both again")
    summaries = [run.artifact.about for run in runs.values()]
    variants = list(summaries[0]["metrics"])
    metrics: dict[str, Any] = {name: {s: {} for s in SLICES} for name in variants}
    for name in variants:
        for s in SLICES:
            for metric in OTHERS:
                metrics[name][s][metric] = _spread([summary["metrics"][name][s].get(metric) for summary in summaries])
    comparisons: list[dict[str, Any]] = []
    scores = [scores_by_metric(run.rows) for run in runs.values()]
    for s, member in slices(first.rows.train_events, first.rows.age_s).items():
        for metric in METRICS:
            found = Crossed(
                [RankedUsers.of(first.rows, member, each[metric]) for each in scores],
                confidence=summaries[0]["confidence"],
                resamples=summaries[0]["resamples"],
                seed=summaries[0]["seed"],
            )
            for place, name in enumerate(variants):
                metrics[name][s][metric] = found.figures(place)
            for against, compared in PAIRS.items():
                pairs = [name for name in compared if {name, against} <= set(variants)]
                comparisons += corrected(
                    [
                        {"variant": name, "against": against, "slice": s, "metric": metric}
                        | found.test(variants.index(name), variants.index(against))
                        for name in pairs
                    ]
                )
    about: dict[str, Any] = {"seeds": list(runs), "metrics": metrics, "comparisons": comparisons}
    about["modalities"] = _modalities([(summary.get("diagnosis") or {}).get("modalities") for summary in summaries])
    about |= {key: summaries[0][key] for key in ("confidence", "resamples")}
    return dict(without_nan(about))


def crossed_draws(by_seed: Floats, *, confidence: float, seed: int) -> Floats:
    """[R] resampled means over seeds and users.

    Args:
        by_seed: [S, R] figures of each seed on the same resamples of users.
        confidence: At which they shall cover.
        seed: Of the draws of seeds.
    """
    seeds, resamples = by_seed.shape
    everyone = by_seed.mean(0)
    picked = np.random.default_rng([seed, 2]).integers(0, seeds, (seeds, resamples))
    drawn = np.take_along_axis(by_seed, picked, axis=0).mean(0)
    at = (1 + confidence) / 2
    stretch = math.sqrt(seeds / (seeds - 1)) * t.ppf(at, seeds - 1) / norm.ppf(at)
    return np.asarray(everyone + stretch * (drawn - everyone))


class Crossed:
    """Scores of several seeds on the same resamples of users and seeds; of one seed, on those of users.

    Args:
        users: By seed.
        confidence: Of the intervals.
        resamples: `R`.
        seed: Of the draws.
        nested: Each seed has users of its own, which are drawn by themselves.
    """

    def __init__(
        self, users: Sequence[RankedUsers], *, confidence: float, resamples: int, seed: int, nested: bool = False
    ) -> None:
        self._confidence, self._seed = confidence, seed
        self._gauc = np.stack([each.gauc for each in users])
        drawn = [(seed, place) if nested else seed for place in range(len(users))]
        pairs = zip(users, drawn, strict=True)
        self._draws = np.stack([resample(each.auc, each.weight, resamples=resamples, seed=s) for each, s in pairs])

    def figures(self, score: int, other: int | None = None) -> dict[str, Any]:
        """A score, or how much it is above another."""
        by_seed = self._gauc[:, score] - (0 if other is None else self._gauc[:, other])
        found = interval(float(by_seed.mean()), self._drawn(score, other), confidence=self._confidence)
        return _spread(by_seed.tolist()) | {"low": found.low, "high": found.high}

    def test(self, score: int, other: int) -> dict[str, Any]:
        """How much a score is above another, and how sure that is; `ranges` are the intervals of the seeds alone."""
        found, draws = self.figures(score, other), self._drawn(score, other)
        delta, apart = found.pop("value"), self._draws[:, :, score] - self._draws[:, :, other]
        alone = zip(found["by_seed"], apart, strict=True)
        ranges = [interval(value, drawn, confidence=self._confidence) for value, drawn in alone]
        return {
            "delta": delta,
            **found,
            "ranges": [[each.low, each.high] for each in ranges],
            **tested(delta, draws, confidence=self._confidence),
        }

    def share(self, part: tuple[int, int], whole: tuple[int, int]) -> dict[str, float]:
        """The difference `part` as a share of the difference `whole`; not defined unless the whole is above zero."""
        if not self.figures(*whole)["low"] > 0:
            return {"value": math.nan, "low": math.nan, "high": math.nan}
        value = self.figures(*part)["value"] / self.figures(*whole)["value"]
        found = interval(value, self._drawn(*part) / self._drawn(*whole), confidence=self._confidence)
        return {"value": found.value, "low": found.low, "high": found.high}

    def _drawn(self, score: int, other: int | None) -> Floats:
        by_seed = self._draws[:, :, score] - (0 if other is None else self._draws[:, :, other])
        if len(by_seed) == 1:
            return np.asarray(by_seed[0])
        return crossed_draws(by_seed, confidence=self._confidence, seed=self._seed)


def _modalities(by_seed: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What picture and words each contribute: means over seeds, and the interval over users that each seed has."""
    measured = [found["readings"] for found in by_seed if found]
    if len(measured) < len(by_seed):
        return None

    def put_together(reading: str, figure: str) -> dict[str, Any]:
        found = [readings[reading][figure] for readings in measured]
        return _spread([each["value"] for each in found]) | {"ranges": [[each["low"], each["high"]] for each in found]}

    return {name: {figure: put_together(name, figure) for figure in ("gain", "lacks")} for name in measured[0]}


def _spread(by_seed: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard deviation; not defined where one seed's figure is not."""
    values = np.array(by_seed, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return {"value": float(values.mean()), "spread": spread, "by_seed": values.tolist()}
