"""Watches aliases, so that a server learns that another release was promoted.

It polls every few seconds: this works with SQLite and with a server alike, misses nothing after an outage, and needs no
open port. MLflow's webhooks would save half an interval, but MLflow sends them to public HTTPS addresses only, and the
models of the new release take longer to load than that.
"""

import time
from collections.abc import Callable, Iterator, Mapping

from coldstart.config import UserError
from coldstart.methods.base import SCORER
from coldstart.registry.alias_state import reconcile_alias, resolve
from coldstart.registry.connection import explain_mlflow_errors
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release

ReleasesByAlias = dict[str, Release | None]


def watch_aliases(
    registry: Registry, served: Mapping[str, Release | None], *, every: float, warn: Callable[[str], None]
) -> Iterator[ReleasesByAlias]:
    """Yields the releases of some aliases each time that one changes; never ends.

    Args:
        registry: The project's registry.
        served: The current releases of the aliases to watch. The first alias must always point to a release.
        every: Interval between two polls, s.
        warn: Called once per problem, for as long as it lasts: MLflow does not answer, or the release of an alias
            cannot be used. The previous releases stay.
    """
    first, current = next(iter(served)), dict(served)
    problems: dict[str, str] = {}
    while True:
        time.sleep(every)
        latest = dict(current)
        for alias in served:
            # A problem with one alias must not stop the others.
            main = current[first]
            advice = f"{main.name if main else first} is served until it does"
            try:
                with explain_mlflow_errors(registry.tracking_uri, advice):
                    latest[alias] = _latest_release(registry, alias, current, required=alias == first)
            except UserError as error:
                if str(error) not in problems.values():
                    warn(str(error))
                problems[alias] = str(error)
            else:
                problems.pop(alias, None)
        if any(latest[alias] is not current[alias] for alias in served):
            current = latest
            yield dict(latest)


def _latest_release(
    registry: Registry, alias: str, served: Mapping[str, Release | None], *, required: bool
) -> Release | None:
    """The release of an alias; a release that is served already is not read again."""
    version, current = reconcile_alias(registry, alias).version, served[alias]
    if version is None and not required:
        return None
    if current is not None and version == current.versions[SCORER]:
        return current
    return resolve(registry, alias)
