"""Preemption requests from Ray: a node drain, SIGTERM to a worker, or a resize of the worker group."""

import signal
import threading
from typing import Any

import ray

from coldstart.ray_compat.train import (
    ControllerCallback,
    WorkerCallback,
    WorkerGroupCallback,
    is_node_draining,
    is_worker_function_running,
    start_on_workers,
)

_RESIZE_TIMEOUT_S = 300.0

_requested = threading.Event()
_polled = threading.Event()


def preemption_requested() -> bool:
    """Whether this rank must stop soon; a worker function that polls this saves its state and returns.

    `ray.train.get_preemption_info` also reports a drained node, but it synchronizes all ranks through an actor, which
    costs milliseconds per step. Callers of this function must agree among the ranks themselves.
    """
    _polled.set()
    return _requested.is_set() or is_node_draining()


class SigtermCallback(WorkerCallback):
    """On every worker: treats SIGTERM, which Kubernetes and spot machines send first, as a preemption request."""

    def after_init_train_context(self) -> None:
        """Runs in the worker's main thread; its function runs in another thread."""
        previous = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            if _polled.is_set() and not _requested.is_set():
                _requested.set()
            elif callable(previous):
                previous(number, frame)

        signal.signal(signal.SIGTERM, handle)


class GracefulResizeCallback(WorkerGroupCallback, ControllerCallback):
    """On the controller: lets all workers save their state before the group is resized."""

    def __init__(self) -> None:
        self._group: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Stores the current group."""
        self._group = worker_group

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Forgets the group."""
        self._group = None

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Requests preemption of all workers and waits for them, unless the group has failed or finished."""
        stopping = start_on_workers(self._group, _stop_worker) if self._group else []
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_RESIZE_TIMEOUT_S)


def _stop_worker() -> None:
    """On a worker: requests preemption and waits until its function returns, if it polls for requests."""
    if not _polled.is_set():
        return
    _requested.set()
    waiting = threading.Event()
    while is_worker_function_running():
        waiting.wait(0.05)
