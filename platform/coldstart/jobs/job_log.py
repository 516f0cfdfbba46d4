"""The log of a submitted job in run storage, where it survives the head of the cluster."""

import atexit
import os
import subprocess
import sys
from pathlib import Path

_END_SECONDS = 10.0


def job_log(run_dir: Path, job_id: str) -> Path:
    """Where the log of a job is kept."""
    return run_dir / "logs" / f"{job_id}.log"


def keep_log(path: Path) -> None:
    """Copies to a file what this process prints from now on, on both streams."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a session of its own, `tee` survives the signal that stops the job, and writes the job's last lines.
        tee = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        print(f"the log is not kept in run storage: {error}", file=sys.stderr)
        return
    assert tee.stdin is not None
    _flush()
    originals = {stream: os.dup(stream) for stream in (1, 2)}
    for stream in originals:
        os.dup2(tee.stdin.fileno(), stream)
    tee.stdin.close()

    def end() -> None:
        _flush()
        for stream, original in originals.items():
            os.dup2(original, stream)
        tee.wait(_END_SECONDS)

    atexit.register(end)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
