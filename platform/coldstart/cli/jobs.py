"""Jobs on a running Ray cluster through its Jobs API: submit, list, follow, stop, retry."""

import asyncio
import json
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from coldstart.config import Recipe, UserError, digest, resolve_recipe, runtime_env
from coldstart.config.recipe import Submit
from coldstart.ray_compat.core import JOB_LOGGERS, uploaded_bytes

LOCAL = "http://127.0.0.1:8265"
NAME, RECIPE_DIGEST = "coldstart_job", "recipe_sha256"
"""Metadata of our jobs."""
MAX_RECIPE_BYTES = 100_000
"""An environment variable has at most 128 KiB."""
_AGENT_SECONDS = 60.0
_PENDING_SECONDS = 10.0
_STOP_SECONDS = 60.0
_WATCH_SECONDS = 0.5
_LAST_LINES = 20


class ClusterJobs:
    """The jobs of one cluster.

    Args:
        settings: The recipe section `submit`.
        address: URL of the dashboard, instead of that of the settings.

    Raises:
        UserError: no cluster answers, or it refuses the token.
    """

    def __init__(self, settings: Submit, address: str | None = None) -> None:
        self.settings = settings
        self.address = address or settings.address or os.environ.get(runtime_env.RAY_DASHBOARD) or LOCAL
        if "://" not in self.address:
            raise UserError(
                f"'{self.address}' (--address, submit.address or {runtime_env.RAY_DASHBOARD}) is not a dashboard's "
                f"URL, such as {LOCAL}"
            )
        for logger in JOB_LOGGERS:
            logging.getLogger(logger).setLevel(logging.ERROR)
        headers = {name: _expand(name, value) for name, value in settings.headers.items()}
        verify: str | bool = str(settings.ca_file) if settings.ca_file and settings.verify else settings.verify
        with self._readable("is not reachable"), runtime_env.named_dashboard():
            self.client = JobSubmissionClient(self.address, headers=headers or None, verify=verify)

    def submit(self, name: str, recipe: Recipe) -> str:
        """Submits `coldstart run <name>`; the resolved recipe travels with the job.

        Args:
            name: Job, or stage of the method.
            recipe: Resolved recipe.

        Returns:
            The job id.

        Raises:
            UserError: the cluster refuses the job, the working directory is too large, or a variable is not set.
        """
        environment, resources = _runtime_environment(recipe), recipe.submit
        job_id = f"{recipe.name}-{name}-{uuid.uuid4().hex[:8]}"
        environment["env_vars"][runtime_env.JOB_ID] = job_id
        arguments: dict[str, Any] = {
            "entrypoint": shlex.join(
                ["python", "-m", "coldstart", "run", name, "--recipe", f"env:{runtime_env.RECIPE}"]
            ),
            "runtime_env": environment,
            "submission_id": job_id,
            "metadata": {**resources.metadata, NAME: name, RECIPE_DIGEST: digest(recipe)},
            "entrypoint_num_cpus": resources.driver_cpus,
            "entrypoint_memory": int(resources.driver_memory_gb * 2**30),
            "entrypoint_label_selector": resources.labels or None,
        }
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                with self._readable("did not take the job"):
                    return self.client.submit_job(**arguments)
            except UserError as error:
                # A cluster that has only just started has no agent yet.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def follow(self, job_id: str, *, quiet: bool = False) -> None:
        """Prints the log of a job until it ends; says after some seconds what a job that does not start waits for."""
        with self._readable("does not answer"):
            self._wait_for_start(job_id)
            asyncio.run(self._tail(job_id, quiet))

    def outcome(self, job_id: str) -> dict[str, Any]:
        """`job_id` and `status` (a Ray `JobStatus`); of a failed job also `message` and `last_lines` of its log."""
        info = self.info(job_id)
        found: dict[str, Any] = {"job_id": job_id, "status": info.status.value}
        if info.status == JobStatus.FAILED:
            found |= {"message": info.message, "last_lines": self.log(job_id).splitlines()[-_LAST_LINES:]}
        return found

    def list_ours(self) -> list[dict[str, Any]]:
        """Our jobs on the cluster, newest first: `job_id`, `job`, `status`, `started` (Unix seconds), `seconds`."""
        with self._readable("does not answer"):
            found = [job for job in self.client.list_jobs() if NAME in (job.metadata or {})]
        rows = [_row(job) for job in found]
        return sorted(rows, key=lambda row: row["started"] or 0, reverse=True)

    def info(self, job_id: str) -> JobDetails:
        """Ray's description of a job.

        Raises:
            UserError: there is no such job.
        """
        with self._readable(f"has no job {job_id}; `coldstart jobs` lists them"):
            return self.client.get_job_info(job_id)

    def log(self, job_id: str) -> str:
        """What a job has printed so far."""
        self.info(job_id)
        with self._readable("does not answer"):
            return self.client.get_job_logs(job_id)

    def stop(self, job_id: str) -> str:
        """Stops a job and returns its status when it has ended.

        Raises:
            UserError: there is no such job, or it has not started yet.
        """
        waits = self.info(job_id).status == JobStatus.PENDING
        with self._readable("does not answer"):
            self.client.stop_job(job_id)
        deadline = time.monotonic() + (_PENDING_SECONDS if waits else _STOP_SECONDS)
        while not (status := self.info(job_id).status).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.5)
        if status == JobStatus.PENDING:
            raise UserError(
                f"job {job_id} waits for a node, and Ray stops a job only once it has started: it will stop as soon as "
                "a node has room for it"
            )
        return str(status.value)

    def retry(
        self, job_id: str, changed: Recipe | None = None, overrides: Iterable[str] = (), *, allow_change: bool = False
    ) -> str:
        """Submits a job again, which continues where the other one ended.

        Args:
            job_id: Of a job that has ended.
            changed: Recipe to take instead of that of the job; it has the overrides already.
            overrides: Settings of the job's recipe to change.
            allow_change: Whether what is computed may change.

        Returns:
            The id of the new job.

        Raises:
            UserError: the job still runs, is not ours, or the recipe differs.
        """
        info = self.info(job_id)
        environment = (info.runtime_env or {}).get("env_vars", {})
        name = (info.metadata or {}).get(NAME)
        if name is None or runtime_env.RECIPE not in environment:
            raise UserError(f"job {job_id} was not submitted by `coldstart submit`; submit it again with that")
        if not info.status.is_terminal():
            raise UserError(
                f"job {job_id} is {info.status.value.lower()}, and two jobs of one run would disturb each other; stop "
                f"it first: coldstart stop {job_id}"
            )
        before, recipe = (
            resolve_recipe(json.loads(environment[runtime_env.RECIPE]), made, f"the recipe of job {job_id}")
            for made in ((), overrides)
        )
        if changed is not None:
            recipe = make_absolute(changed)
        if (differing := _differing_sections(before, recipe)) and not allow_change:
            raise UserError(
                f"the recipe differs from that of job {job_id} in {', '.join(differing)}, and stages that read these "
                "would start again; pass --changed to allow it"
            )
        return self.submit(name, recipe)

    def _wait_for_start(self, job_id: str) -> None:
        patience = time.monotonic() + _PENDING_SECONDS
        while (info := self.client.get_job_info(job_id)).status == JobStatus.PENDING:
            if time.monotonic() > patience:
                settings = self.settings
                print(
                    f"job {job_id} waits for a node with submit.driver_cpus {settings.driver_cpus:g} and "
                    f"submit.driver_memory_gb {settings.driver_memory_gb:g}: {info.message}",
                    file=sys.stderr,
                )
                patience = float("inf")
            time.sleep(0.3)

    async def _tail(self, job_id: str, quiet: bool) -> None:
        """Prints the log until the job ends; the stream of the Jobs API itself ends seconds later."""
        printed = 0

        def write(text: str) -> None:
            nonlocal printed
            printed += len(text)
            if not quiet:
                sys.stdout.write(text)
                sys.stdout.flush()

        async def copy() -> None:
            async for lines in self.client.tail_job_logs(job_id):
                write(lines)

        copying = asyncio.create_task(copy())
        while not copying.done():
            if (await asyncio.to_thread(self.client.get_job_status, job_id)).is_terminal():
                break
            await asyncio.wait([copying], timeout=_WATCH_SECONDS)
        if copying.done():
            await copying
        copying.cancel()
        write(self.client.get_job_logs(job_id)[printed:])

    @contextmanager
    def _readable(self, problem: str) -> Iterator[None]:
        """Turns what the client of the Jobs API raises into one readable error."""
        try:
            yield
        except (AuthenticationError, ConnectionError, OSError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the Ray cluster at {self.address} {problem}: {reason} (is the address its dashboard, and "
                "RAY_AUTH_MODE=token set, with its token, if it asks for one?)"
            ) from error


def make_absolute(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths: the job runs in another directory, and sees them on storage of the cluster."""
    files = recipe.data.files
    images = files.images.model_copy(update={"root": files.images.root and files.images.root.absolute()})
    files = files.model_copy(update={"root": files.root.absolute(), "images": images})
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


def _runtime_environment(recipe: Recipe) -> dict[str, Any]:
    """Ray's `runtime_env` of a job: the recipe, the variables that travel, and the working directory."""
    text = json.dumps(recipe.model_dump(mode="json"))
    if len(text) > MAX_RECIPE_BYTES:
        raise UserError(f"the recipe has {len(text)} bytes as JSON; {MAX_RECIPE_BYTES} are allowed")
    variables = {runtime_env.RECIPE: text, runtime_env.DRIVER_CPUS: f"{recipe.submit.driver_cpus:g}"}
    for name in recipe.submit.env:
        if name not in os.environ:
            raise UserError(f"submit.env names {name}, which is not set here; set it, or remove it from the recipe")
        variables[name] = os.environ[name]
    environment: dict[str, Any] = {"env_vars": variables}
    if recipe.submit.working_dir is not None:
        check_upload(recipe.submit.working_dir, recipe.submit.max_upload_mb)
        environment["working_dir"] = str(recipe.submit.working_dir.absolute())
    return environment


def check_upload(directory: Path, max_mb: float) -> None:
    """Checks the size of a working directory before it is packed.

    Raises:
        UserError: it does not exist, or what would travel is too large; the message names the largest files.
    """
    if not directory.is_dir():
        raise UserError(f"submit.working_dir {directory} is not a directory; correct the path")
    sizes = uploaded_bytes(directory)
    total = sum(sizes.values()) / 2**20
    if total > max_mb:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(
            f"{path.relative_to(directory.absolute())} ({sizes[path] / 2**20:.0f} MB)" for path in largest
        )
        raise UserError(
            f"submit.working_dir {directory} has {total:.0f} MB, {total - max_mb:.0f} more than submit.max_upload_mb "
            f"{max_mb:g}; name in .rayignore what the job does not need, such as {named}"
        )


def _expand(name: str, value: str) -> str:
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise UserError(f"submit.headers.{name}: '{value}' names an environment variable that is not set")
    return expanded


def _differing_sections(before: Recipe, after: Recipe) -> list[str]:
    """Top-level settings that differ, apart from those that say only how and where the job runs."""
    same = {"submit", "cluster"}
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [key for key in new if key not in same and old[key] != new[key]]


def _row(job: JobDetails) -> dict[str, Any]:
    started = None if job.start_time is None else job.start_time / 1000
    ended = time.time() if job.end_time is None or job.end_time == 0 else job.end_time / 1000
    return {
        "job_id": job.submission_id,
        "job": (job.metadata or {})[NAME],
        "status": job.status.value,
        "started": started,
        "seconds": None if started is None else round(ended - started, 1),
    }
