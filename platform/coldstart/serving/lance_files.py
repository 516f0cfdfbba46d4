"""The one door to Lance: imported where data at rest is written, which costs half a second and a pool of threads."""

import os
from types import ModuleType


def lance() -> ModuleType:
    """The library, without its notes on what it does anyway."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lance

    return lance  # type: ignore[no-any-return, unused-ignore]
