"""The environment variables that `coldstart` sets for Ray, DeepSpeed, MLflow and Lance.

`set_*` functions set defaults of this process: a value that the user has set stays. `worker_variables` returns what
Ray Train sets in its workers.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from urllib.request import getproxies_environment

from coldstart.config.directories import is_writable
from coldstart.config.errors import UserError
from coldstart.config.recipe import Cluster

RAY = {
    # A task or actor without GPUs must not lose the devices that CUDA_VISIBLE_DEVICES names.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    # Ray's core logs restartable actors with arguments as errors. Real errors arrive as exceptions.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # A driver would start a process per logical CPU before it has work for it: 15 s of processor time on a laptop.
    "RAY_prestart_worker_first_driver": "0",
}
RAY_TRAIN = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
RAY_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0: all parts of Ray listen on loopback only; on Linux, too, in spite of its name."""
RAY_DASHBOARD = "RAY_API_SERVER_ADDRESS"
RAY_STARTING = "RAY_worker_maximum_startup_concurrency"
DEEPSPEED_ON_CPU = {"DS_ACCELERATOR": "cpu"}
MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # A request waits for the restart of a server (five retries, about a minute), not for the end of an outage.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "120",
    # Registered models are code over safetensors and JSON, so loading one never needs pickle.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
LANCE = {"LANCE_LOG": "error"}
RAY_TMPDIR = "RAY_TMPDIR"
_SHORT_TMPDIR = "/tmp"
_MAX_RAY_TMPDIR = 107 - len("/ray/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store")
"""Bytes: a Unix socket has a path of at most 107."""
DRIVER_CPUS = "COLDSTART_DRIVER_CPUS"
"""Set by `coldstart submit`: logical CPUs that the driver of this job holds."""
JOB_ID = "COLDSTART_JOB_ID"
"""Set by `coldstart submit`: the id of the job."""
RECIPE = "COLDSTART_RECIPE"
"""Set by `coldstart submit`: the resolved recipe of the job, as JSON."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _set_defaults(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def set_ray_defaults() -> None:
    """Must run before `ray.init`."""
    _set_defaults(RAY)


@contextmanager
def ray_on_loopback() -> Iterator[None]:
    """The processes of a Ray that is started in this block listen on loopback only."""
    with _changed({RAY_ON_LOOPBACK: "0"}):
        yield


@contextmanager
def named_dashboard() -> Iterator[None]:
    """A client of the Jobs API that is made in this block connects to the address that it is given.

    Otherwise Ray prefers the address in the environment.
    """
    with _changed({RAY_DASHBOARD: None}):
        yield


@contextmanager
def _changed(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Sets variables, or removes those that are None, and restores them at the end."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def set_ray_startup_concurrency(logical_cpus: int) -> None:
    """Lets a local Ray start one process per logical CPU; Ray warns where these exceed the cores."""
    _set_defaults({RAY_STARTING: str(logical_cpus)})


def set_ray_tmpdir() -> None:
    """Lets a local Ray keep its sockets in /tmp if TMPDIR is too long or not writable, as on batch systems.

    Raises:
        UserError: no such directory is left, or RAY_TMPDIR itself is unfit.
    """
    chosen = os.environ.get(RAY_TMPDIR)
    directory = chosen or os.environ.get("TMPDIR") or _SHORT_TMPDIR
    problem = _tmpdir_problem(directory)
    if problem and not chosen and _tmpdir_problem(_SHORT_TMPDIR) is None:
        os.environ[RAY_TMPDIR] = _SHORT_TMPDIR
    elif problem:
        raise UserError(
            f"Ray cannot keep its sockets in {directory} ({RAY_TMPDIR if chosen else 'TMPDIR'}), which {problem}; set "
            f"{RAY_TMPDIR} to a writable directory of at most {_MAX_RAY_TMPDIR} bytes"
        )


def _tmpdir_problem(directory: str) -> str | None:
    if (length := len(os.fsencode(directory))) > _MAX_RAY_TMPDIR:
        return f"has {length} bytes"
    return None if is_writable(Path(directory)) else "is not writable"


def set_user_defaults() -> None:
    """Sets HOME and USER where the system does not know the user, as in containers with any uid.

    Must run before libraries that ask for them: MLflow reads HOME when it is imported, PyTorch the name of the user.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = gettempdir()
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["USER"] = f"uid{os.getuid()}"


def set_ray_train_defaults() -> None:
    """Must run before a trainer is started."""
    _set_defaults(RAY_TRAIN)


def set_deepspeed_on_cpu() -> None:
    """Must run before DeepSpeed is imported, which otherwise prints to standard output that it finds no accelerator."""
    _set_defaults(DEEPSPEED_ON_CPU)


def set_mlflow_defaults() -> None:
    """Must run before MLflow and GitPython are imported, which read most of them at that moment."""
    set_user_defaults()
    _set_defaults(MLFLOW)


def set_lance_defaults() -> None:
    """Must run before Lance is imported."""
    _set_defaults(LANCE)


def job_id() -> str | None:
    """The id of the submitted job whose driver this process is; None elsewhere."""
    return os.environ.get(JOB_ID)


def driver_cpus() -> float:
    """Logical CPUs of the cluster that this process holds as the driver of a submitted job; 0 elsewhere."""
    return float(os.environ.get(DRIVER_CPUS, 0))


def check_secrets(names: Iterable[str]) -> None:
    """Checks, in a submitted job, that its node has the environment variables that the recipe counts on.

    Raises:
        UserError: one is missing.
    """
    absent = [name for name in names if name not in os.environ]
    if absent and RECIPE in os.environ:
        raise UserError(
            f"submit.secrets: {', '.join(absent)} not set on node {socket.gethostname()}; add it to the environment in "
            "which Ray is started on every node"
        )


def exempt_loopback_from_proxies() -> None:
    """Adds loopback to `no_proxy` where the environment names a proxy: a proxy cannot reach this machine's loopback."""
    if not getproxies_environment():
        return
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in exempt.split(",") if host.strip()]
    if "*" not in hosts:
        joined = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
        os.environ.update(no_proxy=joined, NO_PROXY=joined)


def worker_variables(cluster: Cluster) -> dict[str, str]:
    """The variables of one training worker."""
    threads = str(cluster.threads_per_worker)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    # By default glibc returns freed memory after every step; the page faults cost a fifth of a step of DIN on CPU.
    variables |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
    return variables if cluster.gpus_per_worker else variables | DEEPSPEED_ON_CPU
