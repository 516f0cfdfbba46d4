"""What all jobs share as programs: arguments, the Ray cluster, a progress line and readable errors."""

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

import ray
from joblib import cpu_count

from coldstart.config import (
    Artifact,
    MetricsLog,
    Recipe,
    UserError,
    check_run_dir,
    load_recipe,
    runtime_env,
    store_recipe,
)
from coldstart.config.errors import storage_problem
from coldstart.config.import_allowlist import ALLOWED_IMPORT, allow_import
from coldstart.config.shipped_recipes import find_recipe
from coldstart.jobs.preflight import check_cluster
from coldstart.jobs.progress import CONSOLE, progress_line, shown_messages
from coldstart.ray_compat.core import last_started_head, loopback_only

_ANSWER_SECONDS = 5.0
_SETTINGS_FRAME = 4


@contextmanager
def ray_cluster(recipe: Recipe, address: str | None = None, *, check: bool = True) -> Iterator[None]:
    """Connects to a running cluster, or starts a local one for the duration of the block.

    Args:
        recipe: Its `cluster` section sets the logical CPUs of a local Ray: training workers plus Ray Data tasks.
        address: `host:port` of a running cluster; `None` reads `RAY_ADDRESS`, and without it a local Ray is started.

        check: Whether to ask each node first, if there are several, whether it can run the recipe.

    Raises:
        UserError: no cluster answers at the address, or a node lacks something.
    """
    allow_import(recipe.ranker.kind)
    runtime_env.check_secrets(recipe.submit.secrets)
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    if ray.is_initialized():
        yield
        return
    runtime_env.set_ray_defaults()
    runtime_env.set_user_defaults()
    if not recipe.cluster.gpus_per_worker:
        runtime_env.set_deepspeed_on_cpu()
    options: dict[str, Any] = {}
    if ALLOWED_IMPORT in os.environ:
        options["runtime_env"] = {"env_vars": {ALLOWED_IMPORT: os.environ[ALLOWED_IMPORT]}}
    if address:
        join_ray(address, **options)
    else:
        cluster = recipe.cluster
        ranks = cluster.workers * cluster.cpus_per_worker
        runtime_env.set_ray_tmpdir()
        logical = max(int(ranks + cluster.ray_data_cpus + cluster.embed_actors + 2), cpu_count())
        runtime_env.set_ray_startup_concurrency(logical)
        start_ray(logical, **options)
    try:
        if address and check:
            check_cluster(recipe)
        yield
    finally:
        ray.shutdown()


def join_ray(address: str, **options: Any) -> None:
    """Connects to a running cluster, also to one that listens on loopback only.

    Args:
        address: `host:port` of its head, or `auto` for the one that was started last on this machine.
        options: Further arguments of `ray.init`.
    """
    if address == "auto":
        address = last_started_head() or address
    with _stderr_silenced(), _on_loopback() if _is_on_loopback_only(address) else nullcontext():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)


def start_ray(logical_cpus: int, *, object_store_bytes: int = 1_000_000_000, **options: Any) -> None:
    """Starts a local Ray, which listens on loopback only.

    Args:
        logical_cpus: Of the cluster.
        object_store_bytes: Size of its object store.
        options: Further arguments of `ray.init`.
    """
    with _stderr_silenced(), _on_loopback():
        ray.init(
            address="local",
            num_cpus=logical_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=object_store_bytes,
            **options,
        )


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that is started or joined in this block listens on loopback only, as it does on macOS and Windows.

    On Linux, Ray replaces 127.0.0.1 by the address of the machine, and then its parts listen on every interface.
    """
    with runtime_env.ray_on_loopback(), loopback_only():
        yield


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Hides the log level that Ray's core prints on file descriptor 2; failures to start are raised anyway."""
    sys.stderr.flush()
    saved = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)


def _check_reachable(address: str) -> None:
    if address == "auto":
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.scheme in ("http", "https"):
        raise UserError(
            f"'{address}' (--address or RAY_ADDRESS) is the address of a dashboard; a workload that runs here needs "
            "host:port of the Ray head, for example 10.0.0.5:6379; `coldstart submit --address` takes the dashboard"
        )
    host, port = parts.hostname, _port(parts)
    if not host or not port:
        raise UserError(f"Ray address '{address}' is not host:port; pass for example --address 10.0.0.5:6379")
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_SECONDS) as connection:
            is_ray = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection)
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); start one, or omit the address for a local Ray"
        ) from error
    if not is_ray:
        raise UserError(
            f"what listens at {address} is not a Ray head; pass the port of `ray start --head --port` (6379 by default)"
        )


def _is_on_loopback_only(address: str) -> bool:
    """Whether a head is one of `cluster/local/up.sh`, which this machine's own address does not reach."""
    parts = urlsplit(f"//{address}")
    port = _port(parts)
    if parts.hostname not in runtime_env.LOOPBACK or port is None:
        return False
    try:
        machine = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        with socket.create_connection((machine, port), timeout=_ANSWER_SECONDS):
            return False
    except OSError:
        return True


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return None


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether a server answers the opening of HTTP/2 as Ray's does; `ray.init` waits minutes for one that does not."""
    empty_settings = b"\0\0\0\4\0\0\0\0\0"
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
    try:
        header = connection.recv(len(empty_settings))
    except (TimeoutError, ConnectionResetError):
        return False
    return len(header) == len(empty_settings) and header[3] == _SETTINGS_FRAME


def run_stage(stage: str, run: Callable[[Recipe], Artifact], recipe: Recipe) -> Artifact:
    """Runs one stage with a progress line, and writes the resolved recipe to the run directory."""
    store_recipe(recipe)
    metrics_log = MetricsLog(recipe.run_dir / "metrics" / f"{stage}.jsonl")
    list(metrics_log.follow())

    def show(message: str) -> None:
        CONSOLE.print(f"      {stage:<13} {message}", soft_wrap=True)

    with (
        shown_messages("coldstart.stages", show),
        progress_line(stage, metrics_log),
        _live_metrics(stage, metrics_log, recipe),
    ):
        return run(recipe)


def trained_by(recipe: Recipe) -> dict[str, str]:
    """Kind of a registered model -> stage that trains it with this recipe."""
    # Imports PyTorch, which `prepare` does without.
    from coldstart.methods.available import find_method

    method = find_method(recipe.method.name)
    stages = {"ranker": "train_ranker"} | {stage.output: stage.name for stage in method.stages(recipe)}
    return {kind.name: stages[kind.name] for kind in method.kinds if kind.name in stages}


@contextmanager
def _live_metrics(stage: str, metrics_log: MetricsLog, recipe: Recipe) -> Iterator[None]:
    """Sends the metrics of a training to MLflow while the block runs."""
    trains = stage == "train_ranker" or stage in recipe.method.stages
    kind = next((kind for kind, trainer in trained_by(recipe).items() if trainer == stage), None) if trains else None
    if kind is None:
        yield
        return
    # Training workers import this module too and must not load MLflow.
    from coldstart.registry.mlflow_sync import MetricsSync, live_metrics

    def warn(message: str) -> None:
        CONSOLE.print(f"[yellow]note[/]  {stage:<13} {message}", soft_wrap=True)

    with live_metrics(MetricsSync(kind, metrics_log, recipe), warn):
        yield


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns a `UserError`, or a full or read-only disk, into its message on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if (problem := storage_problem(error)) is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def recipe_arguments(program: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser with the arguments that every job has."""
    parser = argparse.ArgumentParser(
        prog=f"coldstart run {program}",
        description=description,
        epilog=f"example: coldstart run {program} --recipe demo --set cluster.workers=2",
    )
    parser.add_argument("--recipe", default="demo", help="shipped recipe name or YAML file (default: demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a setting; repeatable"
    )
    parser.add_argument("--address", help="host:port of a running Ray cluster (default: RAY_ADDRESS, else a local Ray)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def stage_program(
    stage: str,
    run: Callable[[Recipe], Artifact],
    description: str | None = None,
    *,
    check: Callable[[Recipe], object] | None = None,
) -> None:
    """Runs a stage as a program; `check` raises errors that need no cluster to be found."""
    run_program(recipe_arguments(stage, description).parse_args(), partial(run_stage, stage, run), check=check)


def run_program(
    arguments: argparse.Namespace,
    work: Callable[[Recipe], Artifact],
    *,
    check: Callable[[Recipe], object] | None = None,
) -> None:
    """Loads the recipe, runs `work` on a cluster and prints the artifact that it returns."""
    if arguments.json:
        CONSOLE.stderr = True
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        check_run_dir(recipe)
        if check is not None:
            check(recipe)
        with ray_cluster(recipe, arguments.address):
            artifact = work(recipe)
    if arguments.json:
        result = {"kind": artifact.kind, "path": str(artifact.path), "fingerprint": artifact.fingerprint}
        print(json.dumps({**result, "lineage": artifact.lineage, "metadata": artifact.metadata}))
    else:
        CONSOLE.print(f"      {artifact.kind} at {artifact.path}  [dim]{artifact.fingerprint[:12]}[/]")
