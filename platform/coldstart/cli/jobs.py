"""Submitting a workload to a running Ray cluster through its Jobs API."""

import asyncio
import logging
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from coldstart.config import Recipe, UserError, store_recipe
from coldstart.ray_compat.core import JOB_LOGGERS

_AGENT_SECONDS = 60.0
_LAST_LINES = 20


def submit_job(name: str, recipe: Recipe, *, address: str, wait: bool, quiet: bool) -> dict[str, Any]:
    """Submits `coldstart run <name>` with the resolved recipe.

    Paths are made absolute first, since the job runs in another directory; the run directory must be storage that the
    cluster sees too.

    Args:
        name: Job, or stage of the method.
        recipe: Resolved recipe; written to the run directory, where the job reads it.
        address: URL of the dashboard.
        wait: Follow the log until the job ends.
        quiet: Do not print the job's log.

    Returns:
        `job_id` and `status` (a Ray `JobStatus` name); of a job that failed also Ray's `message` and `last_lines`, the
        end of its log.

    Raises:
        UserError: no cluster answers, or it refuses the token.
    """
    recipe = _absolute(recipe)
    file = store_recipe(recipe)
    for logger in JOB_LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    command = ["python", "-m", "coldstart", "run", name, "--recipe", str(file)]
    try:
        client = JobSubmissionClient(address)
        # A checkout travels with the job; an installed wheel is expected on the cluster already.
        environment = {"working_dir": os.getcwd()} if Path("workloads/prepare.py").is_file() else {}
        job_id = _submit(client, shlex.join(command), environment)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the Ray cluster at {address} did not take the job: {reason} "
            "(is the address its dashboard, and RAY_AUTH_MODE=token set if it asks for a token?)"
        ) from error
    if wait:
        asyncio.run(_follow(client, job_id, quiet))
    status: JobStatus = client.get_job_status(job_id)
    outcome: dict[str, Any] = {"job_id": job_id, "status": status.value}
    if status == JobStatus.FAILED:
        outcome["message"] = client.get_job_info(job_id).message
        outcome["last_lines"] = client.get_job_logs(job_id).splitlines()[-_LAST_LINES:]
    return outcome


def _submit(client: JobSubmissionClient, command: str, environment: dict[str, Any]) -> str:
    """Submits, waiting for the job agent of a cluster that has only just started."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            return client.submit_job(entrypoint=command, runtime_env=environment)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _absolute(recipe: Recipe) -> Recipe:
    files = recipe.data.files.model_copy(update={"root": recipe.data.files.root.absolute()})
    local_mllm = Path(recipe.encoder.mllm)
    own = recipe.ranker.pretrained
    pretrained = own.model_copy(update={name: path.absolute() for name, path in own if path})
    mllm = str(local_mllm.absolute()) if local_mllm.is_dir() else recipe.encoder.mllm
    return recipe.model_copy(
        update={
            "paths": recipe.paths.model_copy(update={"runs": recipe.paths.runs.absolute()}),
            "ranker": recipe.ranker.model_copy(update={"pretrained": pretrained}),
            "data": recipe.data.model_copy(update={"files": files}),
            "encoder": recipe.encoder.model_copy(update={"mllm": mllm}),
        }
    )


async def _follow(client: JobSubmissionClient, job_id: str, quiet: bool) -> None:
    async for lines in client.tail_job_logs(job_id):
        if not quiet:
            sys.stdout.write(lines)
            sys.stdout.flush()
