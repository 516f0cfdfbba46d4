"""How many heaps the processes of a server keep.

glibc keeps up to eight a core and gives every new thread the next one; what threads leave in each piles up for hours,
though what is in use stays the same. Two are enough for processes that wait most of the time.
"""

import ctypes
from contextlib import suppress
from typing import Final

_HEAPS = 2
_M_ARENA_MAX = -8
"""As malloc.h names it."""

ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": str(_HEAPS)}
"""For processes that are yet to start."""


def keep_few() -> None:
    """The same for this process, before it has more threads; without effect under another C library."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)
