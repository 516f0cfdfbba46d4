"""The publication log: published items, stored once for all releases, and their proxies per release."""

from pathlib import Path

from coldstart.config.recipe import Store
from coldstart.serving.publication_log.interface import (
    Change,
    Origin,
    Proxy,
    PublicationLog,
    PublicationState,
    PublishedItem,
    Vectors,
    item_digest,
)

__all__ = [
    "Change",
    "Origin",
    "Proxy",
    "PublicationLog",
    "PublicationState",
    "PublishedItem",
    "Vectors",
    "item_digest",
    "open_publication_log",
]


def open_publication_log(settings: Store, root: Path, space: str) -> PublicationLog:
    """Opens the log that the recipe chooses.

    Args:
        settings: `serving.store` of the recipe.
        root: Parent directory of all proxy stores.
        space: Fingerprint of the adaptor that makes the proxies.

    Raises:
        UserError: the store cannot be reached.
    """
    if settings.kind == "redis":
        from coldstart.serving.publication_log.redis_log import RedisPublicationLog

        return RedisPublicationLog(settings, space)
    from coldstart.serving.publication_log.sqlite_log import SqlitePublicationLog

    return SqlitePublicationLog(root, space)
