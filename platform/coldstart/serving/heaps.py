"""How little the heaps of a server's processes hold beside what is in use.

glibc keeps up to eight heaps a core, gives every new thread the next one, and keeps what becomes free between what is
in use; over hours both pile up. Two heaps are enough for processes that wait most of the time, and what is free in
them goes back to the system once a minute. pyarrow keeps a heap of its own, which it offers the kernel for huge pages;
the kernel fills the gaps of such a page whenever it comes by, be it after an hour, so these processes have none.
"""

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from threading import Thread
from typing import Final

_HEAPS = 2
_M_ARENA_MAX = -8
"""As malloc.h names it."""
_PR_SET_THP_DISABLE = 41
"""As linux/prctl.h names it; processes started from here on have none either."""
_EVERY_S = 60.0

ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": str(_HEAPS)}
"""For processes that are yet to start: it counts from their first thread on."""


@cache
def tend() -> None:
    """Does all that for this process, once however often it is called; without effect under another C library."""
    library = ctypes.CDLL(None)
    with suppress(AttributeError):
        library.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
        library.mallopt(_M_ARENA_MAX, _HEAPS)
        Thread(target=_give_back, args=(library.malloc_trim,), daemon=True, name="heaps").start()


def _give_back(trim: Callable[[int], int]) -> None:
    while True:
        trim(0)
        time.sleep(_EVERY_S)
