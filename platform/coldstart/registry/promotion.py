"""Promotion: an alias moves only past a gate, all models of a release together, and a record stays."""

import getpass
import json
import math
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from coldstart.config import UserError
from coldstart.registry.registry import Registry

CHAMPION = "champion"
METRIC = "cold_gauc"
RECORD = "coldstart.promotion."


@dataclass(frozen=True)
class Gate:
    """What was compared and how it came out.

    Attributes:
        metric: Name of the figure.
        candidate: The version's own, `None` when it was not measured.
        champion: The present champion's, `None` when there is none to compare with.
        tolerance: How far the candidate may lie below.
        passed: The verdict.
        note: Why, in words.
    """

    metric: str
    candidate: float | None
    champion: float | None
    tolerance: float
    passed: bool
    note: str


@dataclass(frozen=True)
class Promotion:
    """One decision, as recorded.

    Attributes:
        model: Registered model whose alias was asked to move.
        alias: The alias.
        previous: Version it pointed to before, if any.
        version: Version it was asked to point to.
        passed: Whether it moved (or was there already).
        moved: kind -> version of every alias that now stands; empty when refused.
        gate: The comparison.
        time: UTC, ISO 8601.
        who: Who asked.
        why: The reason given.
    """

    model: str
    alias: str
    previous: int | None
    version: int
    passed: bool
    moved: dict[str, int]
    gate: Gate
    time: str
    who: str
    why: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        if not self.passed:
            return f"refused: {self.model} version {self.version} stays without alias '{self.alias}': {self.gate.note}"
        parts = ", ".join(f"{kind} {number}" for kind, number in self.moved.items())
        origin = f" (was version {self.previous})" if self.previous not in (None, self.version) else ""
        return f"{self.alias} is now {self.model} version {self.version}{origin}: {parts}; {self.gate.note}"


def promote(
    registry: Registry,
    kind: str,
    version: int,
    *,
    alias: str = CHAMPION,
    tolerance: float = 0.0,
    who: str | None = None,
    why: str = "",
) -> Promotion:
    """Moves an alias to an adaptor version, and to the encoder and ranker of the same release, if the gate allows.

    Args:
        registry: The project's registry.
        kind: `adaptor`; the other kinds move with it.
        version: Version to promote.
        alias: `champion` is gated; another alias only needs a consistent release.
        tolerance: How far cold GAUC may lie below the champion's (recipe.registry.gate_tolerance).
        who: Recorded; default the account that runs this.
        why: Recorded.

    Raises:
        UserError: no such version, an inconsistent release, or another kind than adaptor.
    """
    if kind != "adaptor":
        registry.model_name(kind)
        raise UserError(
            f"a {kind} is promoted with the release it belongs to; promote an adaptor made for it: "
            "`coldstart promote adaptor VERSION`"
        )
    release = registry.release(version)
    previous = registry.aliases("adaptor").get(alias)
    gate = _gate(registry, version, previous, alias, tolerance)
    decision = Promotion(
        model=registry.model_name(kind),
        alias=alias,
        previous=previous,
        version=version,
        passed=gate.passed,
        moved=release.versions if gate.passed else {},
        gate=gate,
        time=datetime.now(UTC).isoformat(timespec="microseconds"),
        who=who or _account(),
        why=why,
    )
    if decision.passed:
        _move_all(registry, alias, previous, release.versions)
    _record(registry, decision)
    return decision


def history(registry: Registry) -> list[dict[str, Any]]:
    """Every recorded decision of the project, oldest first."""
    name = registry.model_name("adaptor")
    records = [
        json.loads(value)
        for entry in registry.client.search_model_versions(f"name='{name}'")
        for key, value in entry.tags.items()
        if key.startswith(RECORD)
    ]
    return sorted(records, key=lambda record: record["time"])


def _gate(registry: Registry, version: int, previous: int | None, alias: str, tolerance: float) -> Gate:
    candidate = _measured(registry, version)

    def verdict(passed: bool, note: str, champion: float | None = None) -> Gate:
        return Gate(METRIC, candidate, champion, tolerance, passed, note)

    if alias != CHAMPION:
        return verdict(True, f"only '{CHAMPION}' is gated")
    if previous == version:
        return verdict(True, "it is the champion already", candidate)
    if candidate is None:
        return verdict(False, f"it has no {METRIC}; run evaluate and register again")
    if previous is None:
        return verdict(True, f"{METRIC} {candidate:.4f}; there was no champion to compare with")
    champion = _measured(registry, previous)
    if champion is None:
        return verdict(True, f"{METRIC} {candidate:.4f}; the present champion was never measured")
    datasets = [registry.version("adaptor", number).tags.get("coldstart.dataset") for number in (version, previous)]
    if datasets[0] != datasets[1]:
        note = f"{METRIC} {candidate:.4f}, champion {champion:.4f}: not gated, since their datasets differ"
        return verdict(True, note, champion)
    passed = candidate >= champion - tolerance
    relation = "is not below" if passed else "is below"
    against = f"the champion's {champion:.4f} (version {previous}, tolerance {tolerance:g})"
    return verdict(passed, f"{METRIC} {candidate:.4f} {relation} {against}", champion)


def _measured(registry: Registry, version: int) -> float | None:
    value = registry.metrics("adaptor", version).get(METRIC)
    return value if value is not None and math.isfinite(value) else None


def _move_all(registry: Registry, alias: str, previous: int | None, versions: dict[str, int]) -> None:
    """Moves the alias of every kind, the adaptor's last since it decides what is served; undoes all on failure."""
    before = {kind: registry.aliases(kind).get(alias) for kind in versions}
    if before["adaptor"] != previous:
        raise UserError(
            f"alias '{alias}' was moved by somebody else just now, to version {before['adaptor']}; look and try again"
        )
    order = sorted(versions, key=lambda kind: kind == "adaptor")
    try:
        for kind in order:
            registry.client.set_registered_model_alias(registry.model_name(kind), alias, str(versions[kind]))
    except BaseException:
        for kind in order:
            _restore(registry, kind, alias, before[kind])
        raise


def _restore(registry: Registry, kind: str, alias: str, version: int | None) -> None:
    if version is None:
        registry.client.delete_registered_model_alias(registry.model_name(kind), alias)
    else:
        registry.client.set_registered_model_alias(registry.model_name(kind), alias, str(version))


def _record(registry: Registry, decision: Promotion) -> None:
    """Adds a tag under a key that no other record has, so nothing is ever overwritten."""
    key = f"{RECORD}{decision.time.replace(':', '').replace('+0000', 'Z')}.{secrets.token_hex(4)}"
    value = json.dumps(decision.as_dict(), sort_keys=True)
    registry.client.set_model_version_tag(decision.model, str(decision.version), key, value)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
