"""Idle replicas on the server's Ray cluster, as a control: the memory that a Serve process takes by itself.

Like the models' replicas, they are called by replicas that are killed, because a called replica takes more memory.
`python -m workloads.benchmarks.soak.idle_replicas` deploys them on the Ray at RAY_ADDRESS and exits.
"""

import asyncio
import os
import subprocess
import sys

from ray import serve
from ray.serve.handle import DeploymentHandle

from coldstart.jobs.runner import join_ray

NAME, CALLER = "control", "caller"
_EVERY_S = 1.0


@serve.deployment(name=NAME, num_replicas=2, ray_actor_options={"num_cpus": 0.01})
class Idle:
    """Does nothing."""

    async def __call__(self) -> None:
        """Returns nothing."""


@serve.deployment(name=CALLER, num_replicas=2, ray_actor_options={"num_cpus": 0.01})
class Caller:
    """Calls the idle replicas until it is killed."""

    def __init__(self, idle: DeploymentHandle) -> None:
        """Starts the calls."""
        self._calling = asyncio.get_running_loop().create_task(self._call(idle))

    async def _call(self, idle: DeploymentHandle) -> None:
        while True:
            await idle.remote()
            await asyncio.sleep(_EVERY_S)

    async def calls(self) -> bool:
        """Whether it still calls them."""
        return not self._calling.done()


def start(address: str) -> None:
    """Deploys the replicas from a child process, so that this process does not join that Ray cluster."""
    environment = os.environ | {"RAY_ADDRESS": address}
    subprocess.run([sys.executable, "-m", __name__], check=True, env=environment, capture_output=True)


if __name__ == "__main__":
    join_ray(os.environ["RAY_ADDRESS"], namespace="serve")
    caller = serve.run(Caller.bind(Idle.bind()), name=NAME, route_prefix=None)
    assert caller.calls.remote().result(), "the callers do not call"
