"""Private names of Ray's core and of the Jobs API."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants, services
from ray._private.runtime_env import packaging

HEAD_NODE = {"node:__internal_head__": 0.001}
"""Resources of a task or actor that must run on the head node."""
JOB_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers to which `JobSubmissionClient` writes."""


@contextmanager
def loopback_only() -> Iterator[None]:
    """Lets Ray in this process listen on loopback only: it read the variable for that when it was imported."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def last_started_head() -> str | None:
    """`host:port` of the head that `ray start` started last on this machine: what the address `auto` stands for."""
    address: str | None = services.find_bootstrap_address(None)
    return address


def attainable_resources() -> dict[str, float]:
    """Resource -> what the cluster has, or what its autoscaler may grow it to, if that is more."""
    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    return {kind: max(present.get(kind, 0), limits.get(kind, 0)) for kind in present.keys() | limits.keys()}


def uploaded_bytes(directory: Path) -> dict[Path, int]:
    """File -> size, of what Ray uploads of a working directory: what .gitignore and .rayignore do not name."""
    sizes: dict[Path, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    packaging._dir_travel(directory.absolute(), [], add, include_gitignore=True, logger=logging.getLogger("ray"))
    return sizes


def draining_nodes() -> set[str]:
    """The ids of the nodes that are being drained."""
    return set(ray._private.state.state.get_draining_nodes())
