"""How many replicas run, as Serve sees it."""

import time

import ray
from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from coldstart.serving.console.answers import Deployment

_FRESH_S = 1.5
_STATES = {"HEALTHY": "healthy", "UNHEALTHY": "unhealthy", "UPSCALING": "scaling up", "DOWNSCALING": "scaling down"}


class Replicas:
    """Asks Serve's controller, at most once in a while however many pages are open."""

    def __init__(self) -> None:
        self._seen: list[Deployment] = []
        self._at = -_FRESH_S

    def deployments(self) -> list[Deployment]:
        """All deployments, the gateway first; blocks. Empty where no Serve runs."""
        # Asked without a Ray, Serve would start one.
        if ray.is_initialized() and time.monotonic() - self._at > _FRESH_S:
            self._at = time.monotonic()
            self._seen = [
                deployment
                for name, application in sorted(serve.status().applications.items())
                for deployment in _deployments(name, application)
            ]
            self._seen.sort(key=lambda one: one.name != "gateway")
        return self._seen


def _deployments(application: str, overview: ApplicationStatusOverview) -> list[Deployment]:
    # A model's application is named by what it serves, which tells releases apart that stand side by side.
    apart = application.partition("-")[2][:6]
    found = []
    for name, one in overview.deployments.items():
        replicas = {state.value: count for state, count in one.replica_states.items()}
        found.append(
            Deployment(
                name=f"{name} {apart}" if apart else name,
                state=_STATES.get(one.status.value, one.status.value.lower()),
                running=replicas.get("RUNNING", 0),
                starting=replicas.get("STARTING", 0),
            )
        )
    return found
