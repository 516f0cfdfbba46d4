"""What every workload shares when it runs as a program: arguments, Ray, a live line, and errors people can read."""

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from coldstart.config import Artifact, Journal, Recipe, UserError, dump_recipe, load_recipe
from coldstart.config.permission import PERMITTED, permit
from workloads.console import CONSOLE, live_line

RECIPES = Path(__file__).parent / "recipes"
TRAINED_BY = {"ranker": "train_ranker", "encoder": "align_coarse", "adaptor": "align_fine"}
"""Kind of a model that is registered -> stage that trains it."""


def find_recipe(name: str) -> Path:
    """The path of a recipe given by shipped name or by file.

    Raises:
        UserError: neither exists.
    """
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise UserError(f"no recipe '{name}': neither a file nor a shipped recipe ({known})")


@contextmanager
def ray_cluster(recipe: Recipe, address: str | None = None) -> Iterator[None]:
    """Connects to a cluster, or starts a local one for the duration of the block when none is named.

    Args:
        recipe: Says how many logical CPUs a local Ray needs: training workers beside Ray Data tasks.
        address: `host:port` of a running cluster; `None` also looks at `RAY_ADDRESS`.

    Raises:
        UserError: nothing answers at the address.
    """
    permit(recipe.ranker.kind)
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _answers(address)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    # What Ray's core logs as an error here (restartable actors with arguments) is none; real ones arrive as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not recipe.cluster.gpus_per_worker:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if PERMITTED in os.environ:
        quiet["runtime_env"] = {"env_vars": {PERMITTED: os.environ[PERMITTED]}}
    if address:
        with _core_chatter_hidden():
            ray.init(address=address, **quiet)
    else:
        cluster = recipe.cluster
        ranks = cluster.workers * cluster.cpus_per_worker
        logical = max(int(ranks + cluster.data_cpus + cluster.embed_actors + 2), os.cpu_count() or 1)
        # Ray expects one starting process per core and warns when logical CPUs exceed them.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(logical))
        with _core_chatter_hidden():
            ray.init(
                address="local",
                num_cpus=logical,
                include_dashboard=False,
                object_store_memory=1_000_000_000,
                **quiet,
            )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _core_chatter_hidden() -> Iterator[None]:
    """Ray's core announces its log level on file descriptor 2; failures to start are raised, not only printed."""
    sys.stderr.flush()
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _answers(address: str) -> None:
    if address == "auto":
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    host, port = parts.hostname, parts.port
    if not host or not port:
        raise UserError(f"Ray address '{address}' must look like host:port")
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address} ({error}); start one or drop the address") from error


def run_stage(stage: str, run: Callable[[Recipe], Artifact], recipe: Recipe) -> Artifact:
    """Runs one stage under its live line and keeps the resolved recipe beside its result."""
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    (recipe.run_dir / "recipe.yaml").write_text(dump_recipe(recipe))
    journal = Journal(recipe.run_dir / "journals" / f"{stage}.jsonl")
    list(journal.follow())
    with live_line(stage, journal), _live_metrics(stage, journal, recipe):
        return run(recipe)


@contextmanager
def _live_metrics(stage: str, journal: Journal, recipe: Recipe) -> Iterator[None]:
    """Sends a training's figures to MLflow while the block runs."""
    kind = next((kind for kind, trainer in TRAINED_BY.items() if trainer == stage), None)
    if kind is None:
        yield
        return
    # Training workers import this module too, and have no use for MLflow.
    from coldstart.registry.spool import Spool, live_metrics

    def warn(message: str) -> None:
        CONSOLE.print(f"[yellow]note[/]  {stage:<13} {message}", soft_wrap=True)

    with live_metrics(Spool(kind, journal, recipe), warn):
        yield


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns a `UserError` into its message on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def recipe_arguments(program: str, about: str | None) -> argparse.ArgumentParser:
    """The arguments of every workload."""
    parser = argparse.ArgumentParser(
        prog=f"python -m workloads.{program}",
        description=about,
        epilog=f"example: python -m workloads.{program} --recipe demo --set cluster.workers=2",
    )
    parser.add_argument("--recipe", default="demo", help="shipped recipe name or YAML file (default: demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a setting; repeatable"
    )
    parser.add_argument("--address", help="host:port of a running Ray cluster (default: RAY_ADDRESS, else a local Ray)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(
    stage: str,
    run: Callable[[Recipe], Artifact],
    about: str | None = None,
    *,
    check: Callable[[Recipe], object] | None = None,
) -> None:
    """Runs a workload as a program; `check` raises what can be known before a cluster is touched."""
    run_program(recipe_arguments(stage, about).parse_args(), partial(run_stage, stage, run), check=check)


def run_program(
    arguments: argparse.Namespace,
    work: Callable[[Recipe], Artifact],
    *,
    check: Callable[[Recipe], object] | None = None,
) -> None:
    """Runs `work` on a cluster with the recipe that the arguments name, and prints what it made."""
    if arguments.json:
        CONSOLE.stderr = True
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        if check is not None:
            check(recipe)
        with ray_cluster(recipe, arguments.address):
            artifact = work(recipe)
    if arguments.json:
        result = {"kind": artifact.kind, "path": str(artifact.path), "fingerprint": artifact.fingerprint}
        print(json.dumps({**result, "lineage": artifact.lineage, "about": artifact.about}))
    else:
        CONSOLE.print(f"      {artifact.kind} at {artifact.path}  [dim]{artifact.fingerprint[:12]}[/]")
