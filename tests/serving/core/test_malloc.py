"""The number of heaps according to the C library, and their memory according to the kernel."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coldstart.serving.core import malloc

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")

COUNT = """
import ctypes, sys, threading
from coldstart.serving.core.malloc import limit_heap_growth
if "few" in sys.argv:
    limit_heap_growth()
library, gate = ctypes.CDLL(None), threading.Barrier(13)
def allocate():
    library.malloc(1000)
    gate.wait()
    gate.wait()
threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
gate.wait()
library.malloc_stats()
gate.wait()
"""


def count(*arguments: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables
    done = subprocess.run([sys.executable, "-c", COUNT, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return len(re.findall(r"^Arena \d+:", done.stderr, re.MULTILINE))


def test_a_process_has_few_heaps_for_any_number_of_threads():
    assert count() > 2
    assert count("few") == count(**malloc.ENVIRONMENT) == 2


OFFERED = """
import ctypes, mmap, sys
from coldstart.serving.core.malloc import _PR_SET_THP_DISABLE, limit_heap_growth
# Child processes inherit the setting, and other tests set it in this process.
ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0)
if "small" in sys.argv:
    limit_heap_growth()
heap = mmap.mmap(-1, 1 << 24, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
heap.madvise(mmap.MADV_HUGEPAGE)
for page in range(0, 1 << 24, 1 << 21):
    heap[page] = 1
rows = open("/proc/self/smaps_rollup").read().splitlines()
print(sum(int(row.split()[1]) for row in rows if row.startswith("AnonHugePages:")))
"""


@pytest.mark.skipif("[never]" in ENABLED.read_text(), reason="huge pages are disabled in the kernel")
def test_the_kernel_creates_no_huge_pages():
    def huge(*arguments: str) -> int:
        done = subprocess.run([sys.executable, "-c", OFFERED, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert huge() > 0
    assert huge("small") == 0


FREE_BETWEEN = """
import ctypes, gc, time
from coldstart.serving.core import malloc
malloc._EVERY_S = 0.1
if tended := {tended}:
    malloc.limit_heap_growth()
library = ctypes.CDLL(None)
library.malloc.restype = library.memset.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
def held():
    rows = open("/proc/self/status").read().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("RssAnon:")) // 1024
def fill_and_free():
    taken = [ctypes.c_void_p(library.malloc(50_000)) for _ in range(2_000)]
    for one in taken:
        library.memset(one, 1, 50_000)
    for one in taken[:-1]:
        library.free(one)
before = held()
fill_and_free()
until = time.monotonic() + (10 if tended else 1)
while held() > before + 20 and time.monotonic() < until:
    time.sleep(0.05)
print(held() - before)
"""


def test_free_memory_is_returned():
    def left(tended: bool) -> int:
        code = FREE_BETWEEN.format(tended=tended)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert left(tended=False) > 80
    assert left(tended=True) < 20
