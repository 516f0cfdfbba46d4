"""Watching an alias: how a server learns that another release was promoted.

By asking, every few seconds: it works with SQLite and with a server alike, misses nothing after an outage, and needs no
door through which others may knock. MLflow's webhooks would save half a pause, but are sent to public HTTPS addresses
only, and the models of the new release take longer to load than that.
"""

import time
from collections.abc import Callable, Iterator

from coldstart.config import UserError
from coldstart.registry.connection import answering
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release
from coldstart.registry.standing import resolve, settle


def promotions(
    registry: Registry, alias: str, served: Release, *, every: float, warn: Callable[[str], None]
) -> Iterator[Release]:
    """Yields each release that comes to stand at an alias after `served`; never ends.

    Args:
        registry: The project's registry.
        alias: champion or challenger.
        served: What stands now.
        every: Pause between two looks, s.
        warn: Told, once as long as it lasts, why a look came to nothing: MLflow does not answer, or what stands at the
            alias cannot be used. The release served before stays.
    """
    trouble: str | None = None
    while True:
        time.sleep(every)
        try:
            with answering(registry.tracking_uri, f"{served.name} is served until it does"):
                version = settle(registry, alias).version
                release = served if version == served.versions["adaptor"] else resolve(registry, alias)
        except UserError as error:
            if str(error) != trouble:
                trouble = str(error)
                warn(trouble)
            continue
        trouble = None
        if release is not served:
            served = release
            yield release
