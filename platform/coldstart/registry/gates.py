"""Gates: what a release must show before it becomes champion, each with its figure and its verdict."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.registry.comparison import Paired, compare
from coldstart.registry.packaging import check_schema
from coldstart.registry.registry import LICENCE, Registry
from coldstart.registry.release import Release

Measure = Callable[[Release], Mapping[str, float]]
"""Figures of golden requests; given by the caller, since serving code lies to the right of this room."""


@dataclass(frozen=True)
class Verdict:
    """One gate and how a version did.

    Attributes:
        label: Name of the gate.
        passed: The verdict; `None` where nothing could be compared, which is shown and does not refuse.
        note: Why, in words.
        figure: The version's own.
        champion: The present champion's, on the same rows if `low` is there.
        low: Lower end of the paired difference's interval, version less champion.
        high: Its upper end.
        rows: Rows the figure is of.
    """

    label: str
    passed: bool | None
    note: str
    figure: float | None = None
    champion: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the record."""
        return asdict(self)


def judge(
    registry: Registry, release: Release, champion: int | None, settings: Settings, measure: Measure | None = None
) -> list[Verdict]:
    """Verdicts of all gates on a release whose parts were verified.

    Args:
        registry: The project's registry.
        release: Candidate, from `registry.release`.
        champion: Adaptor version to compare with, if one stands.
        settings: Gates and licences.
        measure: Measures golden requests; called once, and only if a gate asks for such a figure.
    """
    golden = [gate for gate in settings.gates if gate.metric.startswith("golden")]
    figures = dict(measure(release)) if golden and measure is not None else {}
    verdicts = [_whole(release), _schema(registry, release), *_licence(registry, release, settings)]
    for gate in settings.gates:
        if gate in golden:
            verdicts.append(_bounded(gate, figures.get(gate.metric), None))
        else:
            verdicts.append(_measured(registry, gate, release.versions["adaptor"], champion))
    return verdicts


def _whole(release: Release) -> Verdict:
    """A release that could be read at all has passed its digests, its lineage and its widths."""
    parts = ", ".join(f"{kind} {number}" for kind, number in release.versions.items())
    return Verdict("whole release", True, f"{parts}: digests, lineage and widths agree")


def _schema(registry: Registry, release: Release) -> Verdict:
    wrong = [
        kind
        for kind, number in release.versions.items()
        if not check_schema(kind, registry.version(kind, number).source, registry.tracking_uri)
    ]
    if wrong:
        return Verdict("schema", False, f"{', '.join(wrong)}: inputs and outputs are not those served; register anew")
    return Verdict("schema", True, "inputs and outputs are those served")


def _licence(registry: Registry, release: Release, settings: Settings) -> list[Verdict]:
    if not settings.licences:
        return []
    tags = {kind: registry.version(kind, number).tags.get(LICENCE, "none") for kind, number in release.versions.items()}
    bad = [f"{kind} has {tag}" for kind, tag in tags.items() if tag not in settings.licences]
    allowed = f"allowed by registry.licences: {', '.join(settings.licences)}"
    return [Verdict("licence", not bad, f"{'; '.join(bad)}; {allowed}" if bad else allowed)]


def _measured(registry: Registry, gate: Gate, version: int, champion: int | None) -> Verdict:
    figures = registry.metrics("adaptor", version)
    name = f"{gate.slice}_{gate.metric}"
    figure, rows = _finite(figures.get(name)), _finite(figures.get(f"{gate.slice}_rows"))
    counted = None if rows is None else int(rows)
    if figure is None and counted is None:
        return Verdict(gate.label, False, f"it has no {name}; run evaluate and register again")
    if gate.against == "champion" and champion is None:
        # Nothing is lost by a first champion, even on a catalogue that has no such rows.
        shown = f"{name} {figure:.4f}" if figure is not None else f"{name} is not defined on {counted} rows"
        note = f"{shown}; there is no other champion to compare with"
        return Verdict(gate.label, None if figure is None else True, note, figure, rows=counted)
    if figure is None or (counted or 0) < gate.min_rows:
        of = "an untold number of" if counted is None else counted
        note = f"{name} is of {of} rows, {gate.min_rows} are asked for; evaluate on more events, or change the gate"
        return Verdict(gate.label, False, note, figure, rows=counted)
    if gate.against == "absolute":
        return _bounded(gate, figure, counted)
    assert champion is not None
    return _against_champion(registry, gate, version, champion, Verdict(gate.label, None, "", figure, rows=counted))


def _against_champion(registry: Registry, gate: Gate, version: int, champion: int, so_far: Verdict) -> Verdict:
    """`so_far` holds the version's own figure from its own evaluation."""
    name, own = f"{gate.slice}_{gate.metric}", so_far.figure
    assert own is not None

    def verdict(passed: bool | None, note: str, **more: Any) -> Verdict:
        return Verdict(**(so_far.as_dict() | more | {"passed": passed, "note": note}))

    paired = compare(registry, version, champion, gate)
    if paired is not None:
        return _paired(gate, champion, paired, verdict)
    other = _finite(registry.metrics("adaptor", champion).get(name))
    if other is None:
        return verdict(None, f"not compared: champion version {champion} has no {name}")
    datasets = [registry.version("adaptor", number).tags.get("coldstart.dataset") for number in (version, champion)]
    if datasets[0] != datasets[1]:
        note = f"not compared: {name} {own:.4f} and champion's {other:.4f} are of different datasets"
        return verdict(None, note, champion=other)
    worse = own - other if gate.lower_is_better else other - own
    passed = worse <= gate.tolerance
    relation = "is within tolerance of" if passed else "is worse than"
    note = (
        f"{name} {own:.4f} {relation} the champion's {other:.4f} (version {champion}, tolerance {gate.tolerance:g}); "
        "no interval, since scored rows are not registered for both"
    )
    return verdict(passed, note, champion=other)


def _paired(gate: Gate, champion: int, paired: Paired, verdict: Callable[..., Verdict]) -> Verdict:
    reach = paired.high if gate.lower_is_better else -paired.low
    passed = math.isfinite(reach) and reach <= gate.tolerance
    difference = f"{paired.figure - paired.champion:+.4f} [{paired.low:+.4f}, {paired.high:+.4f}]"
    relation = "stays within" if passed else "reaches beyond"
    note = (
        f"{gate.slice}_{gate.metric} {paired.figure:.4f} less champion version {champion}'s {paired.champion:.4f} on "
        f"the same {paired.rows} rows: {difference} {relation} tolerance {gate.tolerance:g}"
    )
    shown = {key: _finite(getattr(paired, key)) for key in ("figure", "champion", "low", "high")}
    return verdict(passed, note, **shown, rows=paired.rows)


def _bounded(gate: Gate, figure: float | None, rows: int | None) -> Verdict:
    name = f"{gate.slice}_{gate.metric}" if gate.slice else gate.metric
    assert gate.bound is not None
    if figure is None or not math.isfinite(figure):
        return Verdict(gate.label, False, f"{name} was not measured", rows=rows)
    passed = figure <= gate.bound if gate.lower_is_better else figure >= gate.bound
    side = "most" if gate.lower_is_better else "least"
    return Verdict(gate.label, passed, f"{name} {figure:.4g}, at {side} {gate.bound:g} is asked for", figure, rows=rows)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
