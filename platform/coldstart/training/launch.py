"""Ray Train: runs a worker function on every rank of a process group, again and again until it is done."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from coldstart.config import UserError
from coldstart.config.recipe import Cluster
from coldstart.training.notice import Farewell, Listener, StayingMachines, told_to_leave
from coldstart.training.ranks import rank, world_size

__all__ = ["LEFT", "check_capacity", "launch", "rank", "told_to_leave", "world_size"]

LEFT = "left"
"""What a worker returns that was told to leave and has saved its state."""

Worker = Callable[[dict[str, Any]], str | None]


def launch(
    worker: Worker,
    payload: dict[str, Any],
    *,
    cluster: Cluster,
    name: str,
    storage: Path,
    max_failures: int | None = None,
    elastic: bool = False,
) -> None:
    """Runs `worker(payload)` on `cluster.workers` ranks and returns when all have finished.

    The ranks find a `torch.distributed` process group (NCCL with GPUs, gloo without). A rank that dies is replaced
    together with the whole group, and `worker` is called again: it has to resume from what it saved. So it is when it
    returns `LEFT`, which costs none of `max_failures`: it may ask `told_to_leave` and save before it is killed.
    Ranks run in another working directory, so paths in `payload` must be absolute.

    Args:
        worker: What each rank runs.
        payload: Its argument; must pickle.
        cluster: How many ranks, and what each of them gets.
        name: Of this launch, unique within `storage`.
        storage: Directory that all machines see.
        max_failures: How often a failed group is restarted; `None` takes it from `cluster`.
        elastic: Whether `worker` goes on with another number of ranks; it then starts with any from
            `cluster.min_workers` on, and grows and shrinks with the cluster.

    Raises:
        UserError: the cluster is too small, or a rank raised it (which is never retried).
        RuntimeError: ranks kept failing; the message holds the last failure.
    """
    check_capacity(cluster, elastic=elastic)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    attempts = 1 + (cluster.max_failures if max_failures is None else max_failures)
    trainer = _trainer(worker, payload, cluster, name, storage, max_failures=attempts - 1, elastic=elastic)
    attempt = 0
    while True:
        try:
            if trainer.fit().return_value != LEFT:  # type: ignore[attr-defined]
                return
        except ray.train.ControllerError as error:
            attempt += 1
            told = _find_user_error(error.controller_failure)
            if told is not None:
                raise UserError(str(told)) from error
            # Ray Train counts the death of a rank that has not yet begun its function as its own error and gives up.
            if not isinstance(error.controller_failure, ray.exceptions.RayActorError) or attempt == attempts:
                raise RuntimeError(f"{name} could not be run: {error.controller_failure}") from error
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(f"{name} failed on its workers: {error}") from error


def _trainer(
    worker: Worker,
    payload: dict[str, Any],
    cluster: Cluster,
    name: str,
    storage: Path,
    *,
    max_failures: int,
    elastic: bool,
) -> TorchTrainer:
    workers = (cluster.min_workers, cluster.workers) if elastic and cluster.min_workers else cluster.workers
    # The checker sees the configs and the result of Ray Train V1; those of V2 are bound in their place at run time.
    return _Trainer(
        worker,  # type: ignore[arg-type]
        train_loop_config=payload,
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=cluster.resize_seconds,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=name,
            storage_path=str(storage.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            callbacks=[_StopOnUserError(), Listener(), Farewell()],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": _environment(cluster)},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


class _Trainer(TorchTrainer):
    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self.scaling_config.elasticity_enabled:  # type: ignore[attr-defined]
            parts["scaling_policy"] = StayingMachines(self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]


def check_capacity(cluster: Cluster, *, elastic: bool = False) -> None:
    """Refuses to start what this Ray cluster could never schedule.

    Raises:
        UserError: with the missing amount.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    field = "min_workers" if elastic and cluster.min_workers else "workers"
    workers = getattr(cluster, field)
    asked = {
        "CPU": workers * cluster.cpus_per_worker + cluster.data_cpus,
        "GPU": workers * cluster.gpus_per_worker,
    }
    for kind, amount in asked.items():
        missing = amount - there.get(kind, 0)
        if missing > 0:
            extra = f" + {cluster.data_cpus} for data" if kind == "CPU" else ""
            each = cluster.cpus_per_worker if kind == "CPU" else cluster.gpus_per_worker
            raise UserError(
                f"the Ray cluster has {there.get(kind, 0):g} {kind}s but cluster.{field} {workers} x {each:g}"
                f"{extra} = {amount:g} are asked for: {missing:g} missing; lower cluster.{field} or add nodes"
            )


def _resources(cluster: Cluster) -> dict[str, float]:
    resources = {"CPU": float(cluster.cpus_per_worker)}
    if cluster.gpus_per_worker:
        resources["GPU"] = float(cluster.gpus_per_worker)
    return resources


def _environment(cluster: Cluster) -> dict[str, str]:
    threads = str(cluster.threads_per_worker)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    # glibc gives freed memory back after every step, and faulting it in again is a fifth of a step of DIN on CPU.
    variables |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
    if not cluster.gpus_per_worker:
        variables["DS_ACCELERATOR"] = "cpu"
    return variables


class _StopOnUserError(ray.train.UserCallback):
    """Ends the run at once when a rank raised `UserError`: trying again cannot help."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Runs in Ray Train's controller; what it raises is not retried."""
        for error in worker_exceptions.values():
            told = _find_user_error(error)
            if told is not None:
                raise UserError(str(told))


def _find_user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` in a chain of wrapped exceptions, if there is one."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = getattr(error, "_base_exc", None) or error.__cause__ or getattr(error, "cause", None)
    return None
