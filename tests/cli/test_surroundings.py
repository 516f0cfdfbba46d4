"""Places that cannot be written, users without a home, and long TMPDIRs: each works, or ends at once with the fix."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]
COLDSTART = [sys.executable, "-c", "from coldstart.cli import main; main()"]


def program(*arguments: str, prefix: tuple[str, ...] = (), **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Runs `coldstart` as a process with other environment variables; None removes one."""
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(
        [*prefix, *COLDSTART, *arguments],
        env={name: value for name, value in environment.items() if value is not None},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def no_privileges() -> tuple[str, ...]:
    """Starts a program for which permissions count, even if it belongs to root."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("apt-get install util-linux")
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


NOBODY = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"))


@pytest.fixture
def unknown_user() -> tuple[str, ...]:
    """Starts a program as a user without an entry in the system's table."""
    unknown = ("unshare", "--user", "--map-user=54321")
    if shutil.which("unshare") is None or subprocess.run([*unknown, "true"], check=False).returncode:
        pytest.skip("needs unshare of util-linux, and user namespaces")
    return unknown


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    path = tmp_path / "read-only"
    path.mkdir(mode=0o555)
    return path


RUNS = [
    ["models"],
    ["history"],
    ["gc"],
    ["promote", "adaptor", "1"],
    ["serve"],
    ["evaluate"],
    ["compare-releases"],
    ["import-ranker", "my:Ranker", "--weights", "x.safetensors"],
    *(["run", name, "--recipe", "tests/smoke.yaml"] for name in ("prepare", "pipeline", "demo", "refresh", "register")),
]


@pytest.mark.parametrize("verb", RUNS, ids=lambda verb: "-".join(verb[:2]))
def test_a_runs_directory_that_cannot_be_written_is_named_at_once(
    coldstart: Command, tmp_path: Path, verb: list[str]
) -> None:
    (tmp_path / "file").touch()
    began = time.monotonic()
    done = coldstart(*verb, "--set", f"paths.runs={tmp_path / 'file' / 'runs'}")
    assert done.returncode == 2
    assert "is not writable; set paths.runs to a directory that is" in done.stderr
    assert f"{tmp_path}/file/runs" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert time.monotonic() - began < 10
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("verb", [["models"], ["run", "prepare"], ["serve"]], ids=lambda verb: verb[0])
def test_permissions_count(verb: list[str], read_only: Path, no_privileges: tuple[str, ...]) -> None:
    done = program(*verb, "--set", f"paths.runs={read_only / 'runs'}", prefix=no_privileges)
    assert done.returncode == 2
    assert "is not writable; set paths.runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "verb",
    [["generate", "{}/catalog"], ["create-tiny-mllm", "{}/tiny", "--dataset", "."], ["export", "{}/proxies.parquet"]],
    ids=lambda verb: verb[0],
)
def test_an_output_that_cannot_be_written_is_named(coldstart: Command, tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "file").touch()
    done = coldstart(*(part.format(tmp_path / "file") for part in verb))
    assert done.returncode == 2
    assert "is not writable; choose another" in done.stderr


def test_what_the_file_system_refuses_is_named_without_a_traceback(coldstart: Command, tmp_path: Path) -> None:
    done = coldstart("generate", str(tmp_path / ("x" * 300)), "--items", "20", "--users", "5", "--events", "50")
    assert done.returncode == 2
    assert "x: File name too long; correct its permissions, or choose another place" in done.stderr


@pytest.mark.parametrize("verb", [["models"], ["recipes"], ["validate", "demo"]], ids=lambda verb: verb[0])
def test_a_user_that_the_system_does_not_know_needs_no_home(
    tmp_path: Path, verb: list[str], unknown_user: tuple[str, ...]
) -> None:
    settings = ["--set", f"paths.runs={tmp_path}"] if verb != ["recipes"] else []
    done = program(*verb, *settings, prefix=unknown_user, **NOBODY)
    assert done.returncode == 0, done.stderr
    assert not (ROOT / "~").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_prepare_runs_for_an_unknown_user_with_a_long_tmpdir(tmp_path: Path, unknown_user: tuple[str, ...]) -> None:
    directory = tmp_path / ("x" * 60)
    directory.mkdir()
    settings = [f"paths.runs={tmp_path / 'runs'}", "data.generated.items=60", "data.generated.events=2000"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    surroundings = {"TMPDIR": str(directory), "RAY_TMPDIR": None, **NOBODY}
    arguments = ("run", "prepare", "--recipe", "tests/smoke.yaml", *overrides)
    done = program(*arguments, prefix=unknown_user, **surroundings)
    assert done.returncode == 0, done.stderr
    refused = program(*arguments, RAY_TMPDIR=str(directory))
    assert refused.returncode == 2
    assert f"Ray cannot keep its sockets in {directory} (RAY_TMPDIR)" in refused.stderr
    assert "Traceback" not in refused.stderr
