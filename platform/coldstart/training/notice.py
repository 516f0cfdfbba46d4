"""Notices to leave, as Ray gives them: a node that is drained, a signal to a worker, a group that is to be resized."""

import signal
import threading
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

_SECONDS_TO_LEAVE = 300.0

_told = threading.Event()
_asked = threading.Event()


def told_to_leave() -> bool:
    """Whether this rank was told to leave; asked by a worker function that then saves its state and returns.

    `ray.train.get_preemption_info` says the same of a drained node but gathers all ranks by way of an actor, which
    costs milliseconds at every step; ranks that ask this one have to agree among themselves.
    """
    _asked.set()
    return _told.is_set() or get_train_context().preemption_context.preemption_info is not None


class Listener(WorkerCallback):
    """On every worker: takes SIGTERM for a notice, which Kubernetes and spot machines send before they kill."""

    def after_init_train_context(self) -> None:
        """In the worker's main thread; its function runs in another."""
        usual = signal.getsignal(signal.SIGTERM)

        def take(number: int, frame: Any) -> None:
            if _asked.is_set() and not _told.is_set():
                _told.set()
            elif callable(usual):
                usual(number, frame)

        signal.signal(signal.SIGTERM, take)


class Farewell(WorkerGroupCallback, ControllerCallback):
    """On the controller: workers that make room for a smaller or larger group are told and have time to save."""

    def __init__(self) -> None:
        self._group: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Remembers who is there."""
        self._group = worker_group

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Forgets them."""
        self._group = None

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Lets them leave; those of a group that has failed are not waited for."""
        status = self._group.get_latest_poll_status() if self._group else None
        if status is not None and not status.errors and not status.finished:
            leaving = [worker.execute_async(_leave) for worker in self._group.get_workers()]
            ray.wait(leaving, num_returns=len(leaving), timeout=_SECONDS_TO_LEAVE)


class StayingMachines(ElasticScalingPolicy):
    """Ray Train's elastic policy, which would count on machines that are being drained and then wait for them."""

    def _get_reserved_resources(self) -> Any:
        reserved = super()._get_reserved_resources()
        draining = ray._private.state.state.get_draining_nodes()
        return reserved and {node: amounts for node, amounts in reserved.items() if node not in draining}


def _leave() -> None:
    """On a worker: tells its function and waits for it to return, if it ever asks."""
    if not _asked.is_set():
        return
    _told.set()
    thread = get_train_context().execution_context.training_thread_runner
    waiting = threading.Event()
    while thread.is_running():
        waiting.wait(0.05)
