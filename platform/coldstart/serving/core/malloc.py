"""Limits of heap memory in the processes of a server.

glibc keeps up to eight heaps per core, gives each new thread the next one, and keeps freed memory between live blocks;
over hours both grow. Two heaps are enough for processes that wait most of the time, and their free memory is returned
to the system once a minute. pyarrow has its own heap and allows huge pages for it; the kernel fills the gaps of such a
page at any later time, even after an hour, so huge pages are disabled in these processes.
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
"""The constant of malloc.h."""
_PR_SET_THP_DISABLE = 41
"""The constant of linux/prctl.h; child processes inherit the setting."""
_EVERY_S = 60.0

ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": str(_HEAPS)}
"""Environment variables for new processes, so that the limit holds from their first thread on."""


@cache
def limit_heap_growth() -> None:
    """Limits the heaps of this process; further calls do nothing. No effect under another C library than glibc."""
    library = ctypes.CDLL(None)
    with suppress(AttributeError):
        library.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
        library.mallopt(_M_ARENA_MAX, _HEAPS)
        Thread(target=_trim_forever, args=(library.malloc_trim,), daemon=True, name="heaps").start()


def _trim_forever(trim: Callable[[int], int]) -> None:
    while True:
        trim(0)
        time.sleep(_EVERY_S)
