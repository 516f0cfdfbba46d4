"""What one node of a cluster reports about itself before a job runs there. Light: every node imports it first."""

import hashlib
import os
import platform
import shutil
import socket
import time
import uuid
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import coldstart
from coldstart.config.reachability import find_connection_problem
from coldstart.config.recipe.encoder import split_revision

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "peft", "pyarrow", "numpy", "safetensors", "mlflow")
BUCKETS = ("s3fs", "gcsfuse", "goofys", "mountpoint-s3", "mount-s3", "blobfuse", "rclone", "geesefs")
"""Mounts of object stores: a rename there is a slow copy, or impossible, and is not atomic."""
STORAGE_SECONDS = 3.0


@dataclass(frozen=True)
class Probe:
    """What every node is asked.

    Attributes:
        runs: Directory of all runs.
        marker: Directory in `runs` that the driver made for this check; its file `driver` holds the directory's name.
        tracking_uri: Of MLflow.
        mllm: Directory or hub name of the MLLM; `tiny` for the one that the run makes.
        secrets: Environment variables that the node must have.
    """

    runs: Path
    marker: Path
    tracking_uri: str
    mllm: str
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeReport:
    """What a node answers.

    Attributes:
        host: Its name.
        versions: Package -> version, with `python`, and `coldstart` as a digest of the code.
        time: Unix seconds.
        shm_bytes: Size of `/dev/shm`.
        problems: Subject -> what does not work there.
    """

    host: str
    versions: dict[str, str]
    time: float
    shm_bytes: int
    problems: dict[str, str] = field(default_factory=dict)


def examine_node(probe: Probe, node_id: str) -> NodeReport:
    """Runs on each node, as a task pinned to it.

    Args:
        probe: What to examine.
        node_id: Of this node, the name of its marker.
    """
    problems = {
        "storage": find_storage_problem(probe.marker, node_id),
        "MLflow": find_connection_problem(probe.tracking_uri, seconds=3.0),
        "MLLM": find_mllm_problem(probe.mllm),
        "secrets": ", ".join(name for name in probe.secrets if name not in os.environ),
    }
    return NodeReport(
        socket.gethostname(),
        find_versions(),
        time.time(),
        shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
        {subject: problem for subject, problem in problems.items() if problem},
    )


def find_versions() -> dict[str, str]:
    """Versions of what the nodes of a cluster must have in common."""
    code = hashlib.sha256()
    root = Path(coldstart.__path__[0])
    for file in sorted(root.rglob("*.py")):
        code.update(str(file.relative_to(root)).encode() + file.read_bytes())
    versions = {"python": platform.python_version(), "coldstart": f"code {code.hexdigest()[:12]}"}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def find_storage_problem(marker: Path, node_id: str) -> str | None:
    """Leaves this node's marker beside the driver's, and tries what a run does with files.

    Args:
        marker: See `Probe`.
        node_id: Name of the file to leave.
    """
    deadline = time.monotonic() + STORAGE_SECONDS
    while not _holds(marker / "driver", marker.name):
        if time.monotonic() > deadline:
            return f"{marker.parent} there is not the storage that the driver sees"
        time.sleep(0.2)
    kind = filesystem_type(marker)
    if any(name in kind for name in BUCKETS):
        return f"{marker.parent} is a bucket mounted as a file system ({kind}), where renames are not atomic"
    try:
        folder = marker / f"{node_id}.draft"
        folder.mkdir()
        for _ in range(2):
            with (folder / "lines").open("ab") as stream:
                stream.write(b"line\n")
                os.fsync(stream.fileno())
        if (folder / "lines").read_bytes() != b"line\n" * 2:
            return f"appending to a file does not work in {marker.parent} ({kind})"
        folder.rename(marker / f"{node_id}.done")
        draft = marker / f"{node_id}.file"
        for _ in range(2):
            draft.write_text(marker.name)
            draft.replace(marker / node_id)
    except OSError as error:
        return f"{marker.parent} ({kind}) does not allow what a run does with files: {error}"
    return None


def sees_marker(marker: Path, node_id: str, *, seconds: float = STORAGE_SECONDS) -> bool:
    """Whether the marker of a node is visible here, at the latest after some seconds."""
    deadline = time.monotonic() + seconds
    while not _holds(marker / node_id, marker.name):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _holds(file: Path, text: str) -> bool:
    """Whether a file has this text. NFS remembers for a while that a file does not exist, unless its folder changes."""
    try:
        return file.read_text() == text
    except OSError:
        pass
    touched = file.with_name(f".{uuid.uuid4().hex}")
    try:
        touched.touch()
        touched.unlink()
    except OSError:
        pass
    return False


def filesystem_type(path: Path) -> str:
    """Type of the file system that holds a path, with its source, such as `nfs4 10.0.0.5:/runs`."""
    found, longest = "unknown", -1
    for line in Path("/proc/mounts").read_text().splitlines():
        source, mounted, kind, *_ = line.split(" ")
        point = Path(mounted.encode().decode("unicode_escape"))
        if path.absolute().is_relative_to(point) and len(point.parts) > longest:
            found, longest = f"{kind} {source}", len(point.parts)
    return found


def find_mllm_problem(mllm: str) -> str | None:
    """Why a node cannot load the MLLM: it has neither the directory nor the hub's copy, and does not reach the hub."""
    if mllm == "tiny" or (Path(mllm) / "config.json").is_file():
        return None
    if Path(mllm).is_absolute() or Path(mllm).is_dir():
        return f"{mllm} has no config.json there"
    from huggingface_hub import constants, try_to_load_from_cache

    name, revision = split_revision(mllm)
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return None
    problem = (
        "offline mode is on" if constants.HF_HUB_OFFLINE else find_connection_problem(constants.ENDPOINT, seconds=3.0)
    )
    return None if problem is None else f"{mllm} is not in the cache there, and the hub cannot be reached: {problem}"
