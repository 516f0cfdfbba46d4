"""Private names of Ray Train V2: callbacks, the context of a worker, and the scaling policy."""

from collections.abc import Callable
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from coldstart.ray_compat.core import draining_nodes

__all__ = [
    "ControllerCallback",
    "DrainAwareScalingPolicy",
    "ElasticTorchTrainer",
    "WorkerCallback",
    "WorkerGroupCallback",
    "is_node_draining",
    "is_worker_function_running",
    "start_on_workers",
    "unwrap_exception",
]


def is_node_draining() -> bool:
    """Whether Ray has announced to this worker that its node will be drained."""
    return get_train_context().preemption_context.preemption_info is not None


def is_worker_function_running() -> bool:
    """Whether the function of this worker has not returned yet."""
    running: bool = get_train_context().execution_context.training_thread_runner.is_running()
    return running


def start_on_workers(worker_group: Any, function: Callable[[], None]) -> list[Any]:
    """Starts a function on every worker and returns the references; none if the group has failed or finished."""
    status = worker_group.get_latest_poll_status()
    if status is None or status.errors or status.finished:
        return []
    return [worker.execute_async(function) for worker in worker_group.get_workers()]


def unwrap_exception(error: BaseException) -> BaseException | None:
    """The exception in Ray Train's wrapper that keeps its traceback; None if `error` is no such wrapper."""
    return getattr(error, "_base_exc", None)


class DrainAwareScalingPolicy(ElasticScalingPolicy):
    """Ray Train's elastic policy without nodes that are being drained, for which it would wait."""

    def _get_reserved_resources(self) -> Any:
        reserved = super()._get_reserved_resources()
        draining = draining_nodes()
        return reserved and {node: amounts for node, amounts in reserved.items() if node not in draining}


class ElasticTorchTrainer(TorchTrainer):
    """A `TorchTrainer` that uses `DrainAwareScalingPolicy` for an elastic number of workers."""

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self.scaling_config.elasticity_enabled:  # type: ignore[attr-defined]
            arguments["scaling_policy"] = DrainAwareScalingPolicy(self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**arguments)  # type: ignore[misc]
