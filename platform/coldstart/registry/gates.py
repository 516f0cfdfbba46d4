"""Gates: the conditions that a release must meet to become champion, each with its metric and its result."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.methods.base import SCORER
from coldstart.methods.kinds import find_kind
from coldstart.registry.packaging import has_current_signature
from coldstart.registry.paired_comparison import PairedDifference, compare_with_champion
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release
from coldstart.registry.version_tags import DATASET, LICENSE

Measure = Callable[[Release], Mapping[str, float]]
"""Measures golden requests; the caller passes it in, because this room must not import serving code."""


@dataclass(frozen=True)
class GateResult:
    """The result of one gate for one version.

    Attributes:
        name: Name of the gate.
        passed: `None` if no comparison was possible; this is shown and does not refuse the promotion.
        note: Why, for people.
        value: The version's metric.
        champion_value: The current champion's, on the same rows if `ci_low` is set.
        ci_low: Lower end of the confidence interval of the paired difference, version minus champion.
        ci_high: Its upper end.
        rows: Number of rows behind the metric.
    """

    name: str
    passed: bool | None
    note: str
    value: float | None = None
    champion_value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    rows: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the promotion log."""
        return asdict(self)


def evaluate_gates(
    registry: Registry, release: Release, champion: int | None, settings: Settings, measure: Measure | None = None
) -> list[GateResult]:
    """Evaluates all gates for a release whose parts are verified.

    Args:
        registry: The project's registry.
        release: Candidate, from `read_release`.
        champion: Scorer version to compare with, if there is one.
        settings: Gates and licenses.
        measure: Measures golden requests; called once, and only if a gate needs it.
    """
    golden = [gate for gate in settings.gates if gate.on_golden_requests]
    measured = dict(measure(release)) if golden and measure is not None else {}
    results = [_complete_release(release), _signatures(registry, release), *_license(registry, release, settings)]
    for gate in settings.gates:
        if gate in golden:
            results.append(_compare_with_threshold(gate, measured.get(gate.metric), None))
        else:
            results.append(_on_test_rows(registry, gate, release.versions[SCORER], champion))
    return results


def _complete_release(release: Release) -> GateResult:
    """Always passes: a release that could be read has correct digests, lineage and columns."""
    parts = ", ".join(f"{kind} {number}" for kind, number in release.versions.items())
    return GateResult("complete release", True, f"{parts}: digests, lineage and columns agree")


def _signatures(registry: Registry, release: Release) -> GateResult:
    wrong = [
        kind
        for kind, number in release.versions.items()
        if not has_current_signature(
            find_kind(release.method, kind), registry.version(kind, number).source, registry.tracking_uri
        )
    ]
    if wrong:
        note = f"{', '.join(wrong)}: inputs and outputs differ from those of this coldstart version; register again"
        return GateResult("schema", False, note)
    return GateResult("schema", True, "inputs and outputs are those of this coldstart version")


def _license(registry: Registry, release: Release, settings: Settings) -> list[GateResult]:
    if not settings.allowed_licenses:
        return []
    tags = {kind: registry.version(kind, number).tags.get(LICENSE, "none") for kind, number in release.versions.items()}
    bad = [f"{kind} has {tag}" for kind, tag in tags.items() if tag not in settings.allowed_licenses]
    allowed = f"allowed by registry.allowed_licenses: {', '.join(settings.allowed_licenses)}"
    return [GateResult("license", not bad, f"{'; '.join(bad)}; {allowed}" if bad else allowed)]


def _on_test_rows(registry: Registry, gate: Gate, version: int, champion: int | None) -> GateResult:
    metrics = registry.metrics(SCORER, version)
    name = f"{gate.slice}_{gate.metric}"
    value, row_count = _finite(metrics.get(name)), _finite(metrics.get(f"{gate.slice}_rows"))
    rows = None if row_count is None else int(row_count)
    if value is None and rows is None:
        return GateResult(gate.name, False, f"it has no {name}; run evaluate and register again")
    if gate.baseline == "champion" and champion is None:
        # A first champion replaces nothing, so it passes even on a catalog without such rows.
        shown = f"{name} {value:.4f}" if value is not None else f"{name} is not defined on {rows} rows"
        note = f"{shown}; there is no other champion to compare with"
        return GateResult(gate.name, None if value is None else True, note, value, rows=rows)
    if value is None or (rows or 0) < gate.min_rows:
        count = "an unknown number of" if rows is None else rows
        note = f"{name} has {count} rows, required: {gate.min_rows}; evaluate on more events, or change the gate"
        return GateResult(gate.name, False, note, value, rows=rows)
    if gate.baseline == "absolute":
        return _compare_with_threshold(gate, value, rows)
    assert champion is not None
    candidate = GateResult(gate.name, None, "", value, rows=rows)
    paired = compare_with_champion(registry, version, champion, gate)
    if paired is not None:
        return _paired_result(candidate, gate, champion, paired)
    return _unpaired_result(candidate, gate, registry, version, champion)


def _paired_result(candidate: GateResult, gate: Gate, champion: int, paired: PairedDifference) -> GateResult:
    worst = paired.ci_high if gate.lower_is_better else -paired.ci_low
    passed = math.isfinite(worst) and worst <= gate.tolerance
    difference = f"{paired.value - paired.champion_value:+.4f} [{paired.ci_low:+.4f}, {paired.ci_high:+.4f}]"
    relation = "is within" if passed else "exceeds"
    note = (
        f"{gate.slice}_{gate.metric} {paired.value:.4f} minus {paired.champion_value:.4f} of champion version "
        f"{champion} on the same {paired.rows} rows: {difference} {relation} tolerance {gate.tolerance:g}"
    )
    return replace(
        candidate,
        passed=passed,
        note=note,
        value=_finite(paired.value),
        champion_value=_finite(paired.champion_value),
        ci_low=_finite(paired.ci_low),
        ci_high=_finite(paired.ci_high),
        rows=paired.rows,
    )


def _unpaired_result(candidate: GateResult, gate: Gate, registry: Registry, version: int, champion: int) -> GateResult:
    """Compares the metrics of two evaluations, when no rows were scored by both versions."""
    name, value = f"{gate.slice}_{gate.metric}", candidate.value
    assert value is not None
    champion_value = _finite(registry.metrics(SCORER, champion).get(name))
    if champion_value is None:
        return replace(candidate, note=f"not compared: champion version {champion} has no {name}")
    datasets = [registry.version(SCORER, number).tags.get(DATASET) for number in (version, champion)]
    if datasets[0] != datasets[1]:
        note = f"not compared: {name} {value:.4f} and the champion's {champion_value:.4f} are from different datasets"
        return replace(candidate, note=note, champion_value=champion_value)
    worse_by = value - champion_value if gate.lower_is_better else champion_value - value
    passed = worse_by <= gate.tolerance
    relation = "is within tolerance of" if passed else "is worse than"
    note = (
        f"{name} {value:.4f} {relation} the champion's {champion_value:.4f} (version {champion}, tolerance "
        f"{gate.tolerance:g}); no interval, because scored rows are not registered for both"
    )
    return replace(candidate, passed=passed, note=note, champion_value=champion_value)


def _compare_with_threshold(gate: Gate, value: float | None, rows: int | None) -> GateResult:
    name = f"{gate.slice}_{gate.metric}" if gate.slice else gate.metric
    assert gate.threshold is not None
    if value is None or not math.isfinite(value):
        return GateResult(gate.name, False, f"{name} was not measured", rows=rows)
    passed = value <= gate.threshold if gate.lower_is_better else value >= gate.threshold
    side = "at most" if gate.lower_is_better else "at least"
    return GateResult(gate.name, passed, f"{name} {value:.4g}, required: {side} {gate.threshold:g}", value, rows=rows)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
