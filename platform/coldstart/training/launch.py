"""Launches a worker function on all ranks with Ray Train, and restarts it until it is done."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig

from coldstart.config import UserError, check_same_artifact, runtime_env
from coldstart.config.recipe import Cluster
from coldstart.ray_compat.core import attainable_resources
from coldstart.ray_compat.train import ElasticTorchTrainer, unwrap_exception
from coldstart.training.distributed import rank, world_size
from coldstart.training.preemption import GracefulResizeCallback, SigtermCallback, preemption_requested

__all__ = ["PREEMPTED", "check_capacity", "launch", "preemption_requested", "rank", "world_size"]

PREEMPTED = "preempted"
"""Returned by a worker that saved its state after a preemption request."""

Worker = Callable[[dict[str, Any]], str | None]


def launch(
    worker: Worker,
    payload: dict[str, Any],
    *,
    cluster: Cluster,
    name: str,
    storage: Path,
    inputs: Mapping[str, str] = MappingProxyType({}),
    elastic: bool = False,
) -> None:
    """Runs `worker(payload)` on `cluster.workers` ranks and returns when all have finished.

    The ranks share a `torch.distributed` process group (NCCL with GPUs, gloo without). If a rank dies, the whole group
    is restarted and `worker` is called again, so it must resume from its own checkpoint. The same happens if it returns
    `PREEMPTED`, which does not count as a failure: a worker may check `preemption_requested` and save before it is
    killed. Ranks run in another working directory, so paths in `payload` must be absolute.

    Args:
        worker: Function that each rank runs.
        payload: Its argument; must be picklable.
        cluster: Number and resources of the ranks.
        name: Name of this launch, unique in `storage`.
        storage: Directory shared by all machines, in the run directory.
        inputs: Kind -> fingerprint of the artifacts in the run directory that the ranks open. Each rank first checks
            that its node sees these, and not an older copy.
        elastic: Whether `worker` can resume with another number of ranks. It then starts with at least
            `cluster.min_workers` ranks, and grows and shrinks with the cluster.

    Raises:
        UserError: the cluster is too small, a node does not see the inputs, or a rank raised UserError, which is never
            retried.
        RuntimeError: the ranks failed too often; the message holds the last failure.
    """
    check_capacity(cluster, elastic=elastic)
    runtime_env.set_ray_train_defaults()
    attempts = 1 + cluster.max_failures
    trainer = _trainer(_checking(worker, storage.absolute().parent, inputs), payload, cluster, name, storage, elastic)
    attempt = 0
    while True:
        try:
            if trainer.fit().return_value != PREEMPTED:  # type: ignore[attr-defined]
                return
        except ray.train.ControllerError as error:
            attempt += 1
            user_error = _find_user_error(error.controller_failure)
            if user_error is not None:
                raise UserError(str(user_error)) from error
            # If a rank dies before its function starts, Ray Train reports an internal error and does not retry.
            if not isinstance(error.controller_failure, ray.exceptions.RayActorError) or attempt == attempts:
                raise RuntimeError(f"{name} could not be started: {error.controller_failure}") from error
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(f"{name} failed on its workers: {error}") from error


def _checking(worker: Worker, run_dir: Path, inputs: Mapping[str, str]) -> Worker:
    """The worker, which first compares what its node sees with the inputs."""
    references = dict(inputs)

    def run(payload: dict[str, Any]) -> str | None:
        for kind, fingerprint in references.items():
            check_same_artifact(run_dir / kind, kind, fingerprint)
        return worker(payload)

    return run


def _trainer(
    worker: Worker,
    payload: dict[str, Any],
    cluster: Cluster,
    name: str,
    storage: Path,
    elastic: bool,
) -> ElasticTorchTrainer:
    workers = (cluster.min_workers, cluster.workers) if elastic and cluster.min_workers else cluster.workers
    # mypy sees the classes of Ray Train V1; V2 replaces them at run time.
    return ElasticTorchTrainer(
        worker,  # type: ignore[arg-type]
        train_loop_config=payload,
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=cluster.resize_interval_s,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=name,
            storage_path=str(storage.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            callbacks=[_StopOnUserError(), SigtermCallback(), GracefulResizeCallback()],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": runtime_env.worker_variables(cluster)},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def check_capacity(cluster: Cluster, *, elastic: bool = False) -> None:
    """Checks that this Ray cluster can schedule the ranks.

    Raises:
        UserError: it cannot, and cannot grow so far; the message holds the missing amount.
    """
    available = attainable_resources()
    field = "min_workers" if elastic and cluster.min_workers else "workers"
    workers = getattr(cluster, field)
    driver = runtime_env.driver_cpus()
    required = {
        "CPU": workers * cluster.cpus_per_worker + cluster.ray_data_cpus + driver,
        "GPU": workers * cluster.gpus_per_worker,
    }
    for kind, amount in required.items():
        missing = amount - available.get(kind, 0)
        if missing > 0:
            extra = f" + cluster.ray_data_cpus {cluster.ray_data_cpus}" if kind == "CPU" else ""
            extra += f" + submit.driver_cpus {driver:g}" if kind == "CPU" and driver else ""
            each = cluster.cpus_per_worker if kind == "CPU" else cluster.gpus_per_worker
            raise UserError(
                f"the Ray cluster has {available.get(kind, 0):g} {kind}s but cluster.{field} {workers} x {each:g}"
                f"{extra} = {amount:g} are required: {missing:g} missing; lower cluster.{field} or add nodes"
            )


def _resources(cluster: Cluster) -> dict[str, float]:
    resources = {"CPU": float(cluster.cpus_per_worker)}
    if cluster.gpus_per_worker:
        resources["GPU"] = float(cluster.gpus_per_worker)
    return resources


class _StopOnUserError(ray.train.UserCallback):
    """Ends the run when a rank raises `UserError`, because a retry cannot help."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Runs in Ray Train's controller, which does not retry after an exception here."""
        for error in worker_exceptions.values():
            user_error = _find_user_error(error)
            if user_error is not None:
                raise UserError(str(user_error))


def _find_user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` in a chain of wrapped exceptions, or None."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = unwrap_exception(error) or error.__cause__ or getattr(error, "cause", None)
    return None
