"""Aggregates evaluations of several training seeds: means, spread, and intervals over users and seeds.

Method: a hierarchical bootstrap with crossed seeds and users, since every seed ranks the same rows of the same users. A
resample draws users once for all seeds and scores, and then draws seeds with replacement. The mean over a few drawn
seeds varies too little, by (S - 1) / S, and a few seeds estimate their own spread badly. Deviations between seeds are
therefore stretched by sqrt(S / (S - 1)) (Rao and Wu 1988) and by the ratio of Student's t with S - 1 degrees of freedom
to the normal quantile at the confidence level. With two seeds the interval is wide, as it should be.

Legend: `S` seeds, `R` resamples, `M` scores.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from coldstart.config import UserError
from coldstart.evaluation.compare.evaluated_runs import EvaluatedRun, UserAucs, scores_by_metric, unpaired_reason
from coldstart.evaluation.inference.intervals import difference_test, holm_corrected, interval, resample
from coldstart.evaluation.inference.pairwise_tests import METRICS
from coldstart.evaluation.protocol.slices import SLICES, slices
from coldstart.evaluation.protocol.variants import compared_variants
from coldstart.metrics.undefined import nan_to_none

Floats = NDArray[np.float64]
METRICS_WITHOUT_INTERVAL = ("auc", "logloss", "ece", "ndcg", "recall")
"""Reported with mean and spread only."""


def aggregate_seeds(runs: Mapping[int, EvaluatedRun]) -> dict[str, Any]:
    """Aggregates one evaluation per seed, ready for JSON: undefined values are `None`.

    Args:
        runs: Seed -> its run, two or more. The settings of the intervals are those of the first.

    Returns:
        `seeds`; `metrics[variant][slice][metric]` of value (mean over seeds), spread (standard deviation between
        seeds), by_seed, and for `gauc` and `gauc_item` low and high; `comparisons`, the pairs of an evaluation with
        delta, low, high, spread, by_seed, ranges, p, p_holm (per slice, metric and baseline) and mde; `modalities`,
        input -> gain and drop, each with value, spread, by_seed and ranges, None unless all seeds have measured them.

    Raises:
        UserError: two runs did not evaluate the same rows.
    """
    (first_seed, first), *others = runs.items()
    for seed, run in others:
        if reason := unpaired_reason(first, run):
            raise UserError(f"seeds {first_seed} and {seed} cannot be aggregated: {reason}; evaluate both again")
    summaries = [run.artifact.metadata for run in runs.values()]
    variants = list(summaries[0]["metrics"])
    metrics: dict[str, Any] = {name: {s: {} for s in SLICES} for name in variants}
    for name in variants:
        for s in SLICES:
            for metric in METRICS_WITHOUT_INTERVAL:
                metrics[name][s][metric] = _spread([summary["metrics"][name][s].get(metric) for summary in summaries])
    comparisons: list[dict[str, Any]] = []
    scores = [scores_by_metric(run.rows) for run in runs.values()]
    for s, member in slices(first.rows.train_events, first.rows.age_s).items():
        for metric in METRICS:
            found = SeedUserBootstrap(
                [UserAucs.of(first.rows, member, each[metric]) for each in scores],
                confidence=summaries[0]["confidence"],
                resamples=summaries[0]["resamples"],
                seed=summaries[0]["seed"],
            )
            for index, name in enumerate(variants):
                metrics[name][s][metric] = found.stats(index)
            for against, compared in compared_variants(variants, summaries[0]["headline"]).items():
                comparisons += holm_corrected(
                    [
                        {"variant": name, "against": against, "slice": s, "metric": metric}
                        | found.test(variants.index(name), variants.index(against))
                        for name in compared
                    ]
                )
    result: dict[str, Any] = {"seeds": list(runs), "metrics": metrics, "comparisons": comparisons}
    result["modalities"] = aggregate_modalities(
        [(summary.get("diagnostics") or {}).get("modalities") for summary in summaries]
    )
    result |= {key: summaries[0][key] for key in ("confidence", "resamples", "headline")}
    return dict(nan_to_none(result))


def seed_user_draws(by_seed: Floats, *, confidence: float, seed: int) -> Floats:
    """[R] resampled means over seeds and users.

    Args:
        by_seed: [S, R] values of each seed on the same resamples of users.
        confidence: Of the interval that the draws are used for.
        seed: Of the draws of seeds.
    """
    seeds, resamples = by_seed.shape
    mean = by_seed.mean(0)
    chosen = np.random.default_rng([seed, 2]).integers(0, seeds, (seeds, resamples))
    drawn = np.take_along_axis(by_seed, chosen, axis=0).mean(0)
    quantile = (1 + confidence) / 2
    stretch = math.sqrt(seeds / (seeds - 1)) * t.ppf(quantile, seeds - 1) / norm.ppf(quantile)
    return np.asarray(mean + stretch * (drawn - mean))


class SeedUserBootstrap:
    """Scores of several seeds on the same resamples of users and seeds; with one seed, on resamples of users.

    Args:
        users: AUCs of each seed.
        confidence: Of the intervals.
        resamples: `R`.
        seed: Of the draws.
        nested: Each seed has its own users, which are resampled separately.
    """

    def __init__(
        self, users: Sequence[UserAucs], *, confidence: float, resamples: int, seed: int, nested: bool = False
    ) -> None:
        self._confidence, self._seed = confidence, seed
        self._gauc = np.stack([each.gauc for each in users])
        drawn = [(seed, index) if nested else seed for index in range(len(users))]
        pairs = zip(users, drawn, strict=True)
        self._draws = np.stack([resample(each.auc, each.weight, resamples=resamples, seed=s) for each, s in pairs])

    def stats(self, score: int, other: int | None = None) -> dict[str, Any]:
        """A score, or its difference to another."""
        by_seed = self._gauc[:, score] - (0 if other is None else self._gauc[:, other])
        found = interval(float(by_seed.mean()), self._drawn(score, other), confidence=self._confidence)
        return _spread(by_seed.tolist()) | {"low": found.low, "high": found.high}

    def test(self, score: int, other: int) -> dict[str, Any]:
        """Tests the difference of two scores; `ranges` are the intervals of the single seeds."""
        found, draws = self.stats(score, other), self._drawn(score, other)
        delta, difference = found.pop("value"), self._draws[:, :, score] - self._draws[:, :, other]
        seeds = zip(found["by_seed"], difference, strict=True)
        ranges = [interval(value, drawn, confidence=self._confidence) for value, drawn in seeds]
        return {
            "delta": delta,
            **found,
            "ranges": [[each.low, each.high] for each in ranges],
            **difference_test(delta, draws, confidence=self._confidence),
        }

    def share(self, part: tuple[int, int], whole: tuple[int, int]) -> dict[str, float]:
        """The difference `part` as a share of the difference `whole`; undefined unless `whole` is above zero."""
        if not self.stats(*whole)["low"] > 0:
            return {"value": math.nan, "low": math.nan, "high": math.nan}
        value = self.stats(*part)["value"] / self.stats(*whole)["value"]
        found = interval(value, self._drawn(*part) / self._drawn(*whole), confidence=self._confidence)
        return {"value": found.value, "low": found.low, "high": found.high}

    def _drawn(self, score: int, other: int | None) -> Floats:
        by_seed = self._draws[:, :, score] - (0 if other is None else self._draws[:, :, other])
        if len(by_seed) == 1:
            return np.asarray(by_seed[0])
        return seed_user_draws(by_seed, confidence=self._confidence, seed=self._seed)


def aggregate_modalities(by_seed: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Contribution of image and text over seeds.

    Args:
        by_seed: Results of `modality_ablation`.

    Returns:
        Input -> `gain` and `drop`, each with value, spread, by_seed, and `ranges`, the interval over users of each
        seed; None unless all seeds have measured them.
    """
    measured = [found["inputs"] for found in by_seed if found]
    if len(measured) < len(by_seed):
        return None

    def over_seeds(name: str, key: str) -> dict[str, Any]:
        found = [inputs[name][key] for inputs in measured]
        return _spread([each["value"] for each in found]) | {"ranges": [[each["low"], each["high"]] for each in found]}

    return {name: {key: over_seeds(name, key) for key in ("gain", "drop")} for name in measured[0]}


def _spread(by_seed: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard deviation; undefined if a seed's value is."""
    values = np.array(by_seed, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return {"value": float(values.mean()), "spread": spread, "by_seed": values.tolist()}
