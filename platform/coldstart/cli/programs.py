"""Verbs that run programs: a workload on this machine or on a cluster, and the server."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import typer

from coldstart.cli.app import AsJson, Overrides, RecipeName, app, load
from coldstart.config import Recipe, UserError, runtime_env
from coldstart.jobs.job_log import job_log, keep_log

_HELP = ("--help", "-h")
Address = Annotated[str | None, typer.Option(help="host:port of a running Ray cluster; default: a local Ray.")]


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: coldstart run pipeline --recipe demo",
)
def run(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Workload, e.g. pipeline or prepare.")]
) -> None:
    """Run a workload: on the cluster at --address or RAY_ADDRESS, or else on a local Ray that it starts.

    `coldstart run WORKLOAD --help` lists the options of a workload.
    """
    if name in _HELP:
        print(context.get_help())
        return
    run_workload(name, context.args)


@app.command(epilog="Example: coldstart doctor --recipe demo --address 10.0.0.5:6379")
def doctor(
    recipe: RecipeName = "demo", overrides: Overrides = None, address: Address = None, as_json: AsJson = False
) -> None:
    """Ask every node of a cluster whether it can run a recipe; exit code 1 if something must be mended."""
    loaded = load(recipe, overrides)
    from coldstart.jobs.doctor import examine

    examine(loaded, address, as_json=as_json)


def run_workload(name: str, arguments: Sequence[str]) -> None:
    """Runs a workload as a program in this process, once its name and its recipe are checked.

    Raises:
        UserError: there is no such workload, or its recipe is invalid.
    """
    check_workload(name)
    recipe, address = _common_arguments(arguments)
    if recipe is not None and (job_id := runtime_env.job_id()):
        keep_log(job_log(recipe.run_dir, job_id))
    sys.argv = [name, *arguments]
    from coldstart.jobs import run_job

    with nullcontext() if recipe is None else _checked_cluster(name, recipe, address):
        run_job(name)


def check_workload(name: str) -> None:
    """Checks that there is a workload of that name.

    Raises:
        UserError: there is none.
    """
    from coldstart.config.recipe.method import SETTINGS
    from coldstart.jobs import PROGRAMS

    stages = {stage for settings in SETTINGS.values() for stage in settings.stages}
    if name not in stages and name not in PROGRAMS:
        raise UserError(f"no workload '{name}'; allowed: {', '.join(sorted(stages | set(PROGRAMS)))}")


def _common_arguments(arguments: Sequence[str]) -> tuple[Recipe | None, str | None]:
    """The recipe that a workload will load, and the address of its cluster, before the workload is imported."""
    if any(argument in _HELP for argument in arguments):
        return None, None
    # Every workload has these options (`recipe_arguments`). What else it takes, it checks itself.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--address")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return None, None
    return load(known.recipe, known.set, writes=True), known.address or os.environ.get("RAY_ADDRESS")


def _checked_cluster(name: str, recipe: Recipe, address: str | None) -> AbstractContextManager[None]:
    """Joins a running cluster that the workload trains on, and asks its nodes whether they can run the recipe.

    Importing a workload takes seconds of processor time; what a node lacks is reported before.
    """
    from coldstart.jobs import UNCHECKED

    if address is None or name in UNCHECKED:
        return nullcontext()
    from coldstart.jobs.runner import ray_cluster

    return ray_cluster(recipe, address)


@app.command(epilog="Example: coldstart serve --recipe demo")
def serve(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    alias: Annotated[str, typer.Option(help="Registry alias of the release to serve.")] = "champion",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Serve a release over HTTP until SIGTERM (exit code 0) or Ctrl-C (exit code 130).

    Progress goes to stderr. With --json, nothing but one line with the URL is printed once the server is ready.
    """
    from coldstart.jobs.progress import Steps

    steps = Steps("serve", quiet=as_json)
    steps("loading libraries")
    loaded = load(recipe, overrides, writes=True)
    from coldstart.jobs.serving.serve import serve_forever

    serve_forever(loaded, alias=alias, address=address, as_json=as_json, steps=steps)
