"""Watching aliases: how a server learns that another release was promoted.

By asking, every few seconds: it works with SQLite and with a server alike, misses nothing after an outage, and needs no
door through which others may knock. MLflow's webhooks would save half a pause, but are sent to public HTTPS addresses
only, and the models of the new release take longer to load than that.
"""

import time
from collections.abc import Callable, Iterator, Mapping

from coldstart.config import UserError
from coldstart.registry.connection import answering
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release
from coldstart.registry.standing import resolve, settle

Releases = dict[str, Release | None]
"""What stands, by alias."""


def promotions(
    registry: Registry, served: Mapping[str, Release | None], *, every: float, warn: Callable[[str], None]
) -> Iterator[Releases]:
    """Yields what stands at some aliases each time that it changes; never ends.

    Args:
        registry: The project's registry.
        served: What stands now at the aliases to be watched. At the first, something must always stand.
        every: Pause between two looks, s.
        warn: Told, once as long as it lasts, why a look came to nothing: MLflow does not answer, or what stands at an
            alias cannot be used. The releases served before stay.
    """
    first, present = next(iter(served)), dict(served)
    troubles: dict[str, str] = {}
    while True:
        time.sleep(every)
        found = dict(present)
        for alias in served:
            # One alias in trouble keeps nobody from following the others.
            main = present[first]
            try:
                with answering(registry.tracking_uri, f"{main.name if main else first} is served until it does"):
                    found[alias] = _standing_at(registry, alias, present, needed=alias == first)
            except UserError as error:
                if str(error) not in troubles.values():
                    warn(str(error))
                troubles[alias] = str(error)
            else:
                troubles.pop(alias, None)
        if any(found[alias] is not present[alias] for alias in served):
            present = found
            yield dict(found)


def _standing_at(
    registry: Registry, alias: str, served: Mapping[str, Release | None], *, needed: bool
) -> Release | None:
    """What stands at an alias; what is served already is not read again."""
    version, present = settle(registry, alias).version, served[alias]
    if version is None and not needed:
        return None
    if present is not None and version == present.versions["adaptor"]:
        return present
    return resolve(registry, alias)
