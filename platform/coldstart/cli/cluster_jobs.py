"""Verbs for jobs on a running cluster: submit, jobs, logs, stop, retry."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.cli.programs import check_workload
from coldstart.config import Recipe, UserError
from coldstart.jobs.job_log import job_log

if TYPE_CHECKING:
    from coldstart.cli.jobs import ClusterJobs

Address = Annotated[
    str | None,
    typer.Option(help="URL of the dashboard (default: submit.address, RAY_API_SERVER_ADDRESS, else this machine's)."),
]
JobId = Annotated[str, typer.Argument(help="As `coldstart jobs` lists it.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return as soon as the cluster has the job.")]


@app.command(epilog="Example: coldstart submit pipeline --recipe movielens --address http://127.0.0.1:8265")
def submit(
    name: Annotated[str, typer.Argument(help="Workload, e.g. pipeline or prepare.")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    address: Address = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Directory that travels with the job (default: the code of the cluster).")
    ] = None,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Submit a workload as a job to a running Ray cluster, and follow its log.

    The recipe travels with the job; its paths are paths of the cluster.
    """
    check_workload(name)
    loaded = load(recipe, overrides)
    if working_dir is not None:
        loaded = loaded.model_copy(update={"submit": loaded.submit.model_copy(update={"working_dir": working_dir})})
    from coldstart.cli.jobs import make_absolute

    jobs = _connect(loaded, address)
    _finish(jobs, jobs.submit(name, make_absolute(loaded)), detach=detach, as_json=as_json)


@app.command("jobs", epilog="Example: coldstart jobs --address http://127.0.0.1:8265")
def list_jobs(
    recipe: RecipeName = "demo", overrides: Overrides = None, address: Address = None, as_json: AsJson = False
) -> None:
    """List the jobs that `coldstart submit` brought to a cluster, newest first."""
    rows = _connect(load(recipe, overrides), address).list_ours()
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("job id", "job", "status", "started", "seconds", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        started = "" if row["started"] is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started"]))
        table.add_row(row["job_id"], row["job"], row["status"].lower(), started, f"{row['seconds'] or 0:.0f}")
    OUT.print(table)


@app.command(epilog="Example: coldstart logs -f demo-pipeline-1a2b3c4d")
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Print the log of a job; after the loss of the head, its copy in the run directory of the recipe."""
    loaded = load(recipe, overrides)
    try:
        jobs = _connect(loaded, address)
        if follow:
            jobs.info(job_id)
            jobs.follow(job_id)
        else:
            print(jobs.log(job_id), end="")
    except UserError as error:
        kept = job_log(loaded.run_dir, job_id)
        if not kept.is_file():
            raise UserError(f"{error}; the run directory of a job keeps its log, in logs/{kept.name}") from error
        print(f"{error}; this is the copy in {kept}", file=sys.stderr)
        print(kept.read_text(errors="replace"), end="")


@app.command(epilog="Example: coldstart stop demo-pipeline-1a2b3c4d")
def stop(
    job_id: JobId,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Stop a job; `coldstart retry` continues it."""
    status = _connect(load(recipe, overrides), address).stop(job_id)
    if as_json:
        print(json.dumps({"job_id": job_id, "status": status}))
    else:
        OUT.print(f"job {job_id} {status.lower()}")


@app.command(epilog="Example: coldstart retry demo-pipeline-1a2b3c4d")
def retry(
    job_id: JobId,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="Instead of the recipe of the job.")] = None,
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="The recipe may differ from that of the job.")] = False,
    address: Address = None,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job again: finished stages are kept, and training continues from its last checkpoint."""
    loaded = load(recipe or "demo", overrides)
    jobs = _connect(loaded, address)
    new = jobs.retry(job_id, loaded if recipe else None, overrides or (), allow_change=changed)
    _finish(jobs, new, detach=detach, as_json=as_json)


def _connect(recipe: Recipe, address: str | None) -> "ClusterJobs":
    from coldstart.cli.jobs import ClusterJobs

    return ClusterJobs(recipe.submit, address)


def _finish(jobs: "ClusterJobs", job_id: str, *, detach: bool, as_json: bool) -> None:
    """Follows a job and prints how it ended; the exit code of a job that failed or was stopped is 1."""
    if not detach:
        jobs.follow(job_id, quiet=as_json)
    outcome: dict[str, Any] = jobs.outcome(job_id)
    if as_json:
        print(json.dumps(outcome))
    else:
        OUT.print(f"job {job_id} {outcome['status'].lower()}")
    if detach and not as_json:
        OUT.print(f"next     coldstart logs -f {job_id} --address {jobs.address}", soft_wrap=True)
    if outcome["status"] in ("FAILED", "STOPPED"):
        if outcome.get("last_lines"):
            print("the job's last lines:", *outcome["last_lines"], sep="\n  ", file=sys.stderr)
        raise SystemExit(1)
