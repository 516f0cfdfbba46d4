"""Few heaps, counted by the C library itself."""

import os
import re
import subprocess
import sys

from coldstart.serving import heaps

COUNT = """
import ctypes, sys, threading
from coldstart.serving.heaps import keep_few
if "few" in sys.argv:
    keep_few()
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


def test_a_process_keeps_few_heaps_however_many_threads_it_has():
    assert count() > 2
    assert count("few") == count(**heaps.ENVIRONMENT) == 2
