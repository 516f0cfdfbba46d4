"""The copy of a job's log, written by a process that ends in every way a job can."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coldstart.jobs.job_log import job_log

PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from coldstart.jobs.job_log import keep_log
print("before")
keep_log(Path(sys.argv[1]))
print("on stdout")
print("on stderr", file=sys.stderr)
subprocess.run(["echo", "of a child"])
end = sys.argv[2]
if end == "error":
    raise ValueError("the reason")
if end == "signal":
    print("waits", flush=True)
    time.sleep(60)
"""


def start(path: Path, end: str) -> subprocess.Popen[str]:
    """The program in a process group of its own, as Ray starts a job."""
    command = [sys.executable, "-c", PROGRAM, str(path), end]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.parametrize(("end", "code"), [("success", 0), ("error", 1)])
def test_the_copy_has_what_both_streams_printed_and_the_original_too(tmp_path: Path, end: str, code: int) -> None:
    path = job_log(tmp_path / "run", "mine-prepare-1")
    process = start(path, end)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code
    kept = path.read_text()
    assert set(kept.splitlines()) >= {"on stdout", "on stderr", "of a child"}
    assert printed.replace("before\n", "") == kept
    assert ("ValueError: the reason" in kept) == (end == "error")


def test_a_stopped_job_leaves_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "stopped.log"
    process = start(path, "signal")
    assert process.stdout is not None
    while process.stdout.readline() != "waits\n":
        pass
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert path.read_text().splitlines()[-1] == "waits"


def test_storage_that_cannot_be_written_does_not_end_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(tmp_path / "file" / "run" / "x.log", "success")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the log is not kept in run storage" in printed
    assert "on stdout" in printed
