"""The publication log: published items, stored once for all releases, and their rows per release."""

from pathlib import Path

from coldstart.config.recipe import Store
from coldstart.data.item_table import ColumnSpecs
from coldstart.serving.store.publication_log.interface import (
    Change,
    ItemRow,
    Origin,
    PublicationLog,
    PublicationState,
    PublishedItem,
    item_digest,
)

__all__ = [
    "Change",
    "ItemRow",
    "Origin",
    "PublicationLog",
    "PublicationState",
    "PublishedItem",
    "item_digest",
    "open_publication_log",
]


def open_publication_log(settings: Store, root: Path, space: str, columns: ColumnSpecs) -> PublicationLog:
    """Opens the log that the recipe chooses.

    Args:
        settings: `serving.store` of the recipe.
        root: Parent directory of all item stores.
        space: Fingerprint of the scorer that reads the rows.
        columns: Columns of a row.

    Raises:
        UserError: the store cannot be reached.
    """
    if settings.kind == "redis":
        from coldstart.serving.store.publication_log.redis_log import RedisPublicationLog

        return RedisPublicationLog(settings, space, columns)
    from coldstart.serving.store.publication_log.sqlite_log import SqlitePublicationLog

    return SqlitePublicationLog(root, space, columns)
