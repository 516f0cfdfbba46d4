"""Reads the state of the deployments from Ray Serve, for the console."""

import time

import ray
from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from coldstart.serving.console.schemas import DeploymentStatus

_MAX_AGE_S = 1.5
_STATES = {"HEALTHY": "healthy", "UNHEALTHY": "unhealthy", "UPSCALING": "scaling up", "DOWNSCALING": "scaling down"}


class DeploymentReader:
    """Reads the deployments from Serve's controller and caches them, so that many open pages cost one call."""

    def __init__(self) -> None:
        self._cached: list[DeploymentStatus] = []
        self._cached_at = -_MAX_AGE_S

    def deployments(self) -> list[DeploymentStatus]:
        """All deployments, the gateway first; empty if Serve does not run. Blocks."""
        # `serve.status` would start Ray if it did not run.
        if ray.is_initialized() and time.monotonic() - self._cached_at > _MAX_AGE_S:
            self._cached_at = time.monotonic()
            self._cached = [
                deployment
                for name, application in sorted(serve.status().applications.items())
                for deployment in _deployments(name, application)
            ]
            self._cached.sort(key=lambda one: one.name != "gateway")
        return self._cached


def _deployments(application: str, overview: ApplicationStatusOverview) -> list[DeploymentStatus]:
    # The names of model applications end in a hash; it distinguishes releases that are served together.
    suffix = application.partition("-")[2][:6]
    found = []
    for name, one in overview.deployments.items():
        replicas = {state.value: count for state, count in one.replica_states.items()}
        found.append(
            DeploymentStatus(
                name=f"{name} {suffix}" if suffix else name,
                state=_STATES.get(one.status.value, one.status.value.lower()),
                running=replicas.get("RUNNING", 0),
                starting=replicas.get("STARTING", 0),
            )
        )
    return found
