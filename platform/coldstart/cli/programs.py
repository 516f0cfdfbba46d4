"""Verbs that run programs: a workload here or on a cluster, and the server."""

import json
import runpy
import sys
from typing import Annotated

import typer

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.config import UserError


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: coldstart run pipeline --recipe demo",
)
def run(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Workload, e.g. pipeline or prepare.")]
) -> None:
    """Run a workload here: on the cluster at --address or RAY_ADDRESS, else on a local Ray it starts."""
    _known(name)
    sys.argv = [name, *context.args]
    runpy.run_module(f"workloads.{name}", run_name="__main__", alter_sys=True)


@app.command(epilog="Example: coldstart submit pipeline --recipe movielens --address http://127.0.0.1:8265")
def submit(
    name: Annotated[str, typer.Argument(help="Workload, e.g. pipeline or prepare.")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="Dashboard of the cluster.")] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the job's log until it ends.")] = True,
    as_json: AsJson = False,
) -> None:
    """Submit a workload as a job to a running Ray cluster."""
    from coldstart.cli.jobs import submit_job

    _known(name)
    outcome = submit_job(name, load(recipe, overrides), address=address, wait=wait, quiet=as_json)
    if as_json:
        print(json.dumps(outcome))
    else:
        OUT.print(f"job {outcome['job_id']} {outcome['status'].lower()}")
    if outcome["status"] in ("FAILED", "STOPPED"):
        if outcome.get("last_lines"):
            print("the job's last lines:", *outcome["last_lines"], sep="\n  ", file=sys.stderr)
        raise SystemExit(1)


def _known(name: str) -> None:
    from workloads.job import RECIPES

    programs = sorted(
        path.stem for path in RECIPES.parent.glob("*.py") if "__main__" in path.read_text() and path.stem != "__init__"
    )
    if name not in programs:
        raise UserError(f"no workload '{name}'; allowed: {', '.join(programs)}")


@app.command(epilog="Example: coldstart serve --recipe demo")
def serve(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    alias: Annotated[str, typer.Option(help="Alias whose release is served.")] = "champion",
    address: Annotated[
        str | None, typer.Option(help="host:port of a running Ray cluster; default: a local Ray.")
    ] = None,
) -> None:
    """Serve a release over HTTP until interrupted."""
    from workloads.serve import serve_forever

    serve_forever(load(recipe, overrides), alias=alias, address=address)
