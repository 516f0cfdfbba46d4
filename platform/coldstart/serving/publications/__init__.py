"""Publications: what was published, once for all releases, and the proxies of it, per release."""

from pathlib import Path

from coldstart.config.recipe import Store
from coldstart.serving.publications.interface import (
    Change,
    Item,
    Origin,
    Proxy,
    Publications,
    Standing,
    Vectors,
    digest_of,
)

__all__ = ["Change", "Item", "Origin", "Proxy", "Publications", "Standing", "Vectors", "digest_of", "open_publications"]


def open_publications(settings: Store, root: Path, space: str) -> Publications:
    """The publications of the recipe's choice.

    Args:
        settings: The recipe's section.
        root: Directory of all proxy stores.
        space: Fingerprint of the adaptor whose proxies are wanted.

    Raises:
        UserError: the store cannot be reached.
    """
    if settings.kind == "redis":
        from coldstart.serving.publications.redis_server import RedisPublications

        return RedisPublications(settings, space)
    from coldstart.serving.publications.local import LocalPublications

    return LocalPublications(root, space)
