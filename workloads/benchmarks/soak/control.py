"""Replicas that do nothing, on the server's Ray: what a process of Serve comes to hold by itself.

Like the models' they are called by replicas that are killed: what is called comes to hold more than what is not.
`python -m workloads.benchmarks.soak.control` puts them up on the Ray at RAY_ADDRESS, and ends.
"""

import asyncio
import logging
import os
import subprocess
import sys

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

NAME, CALLER = "control", "caller"
_EVERY_S = 1.0


@serve.deployment(name=NAME, num_replicas=2, ray_actor_options={"num_cpus": 0.01})
class Idle:
    """Answers nothing."""

    async def __call__(self) -> None:
        """Is called now and then."""


@serve.deployment(name=CALLER, num_replicas=2, ray_actor_options={"num_cpus": 0.01})
class Caller:
    """Calls the idle, until it is killed."""

    def __init__(self, idle: DeploymentHandle) -> None:
        """Starts calling."""
        self._calling = asyncio.get_running_loop().create_task(self._call(idle))

    async def _call(self, idle: DeploymentHandle) -> None:
        while True:
            await idle.remote()
            await asyncio.sleep(_EVERY_S)

    async def calls(self) -> bool:
        """Whether it still does."""
        return not self._calling.done()


def start(address: str) -> None:
    """Puts the replicas up from a process of its own, so that this one stays outside that Ray."""
    environment = os.environ | {"RAY_ADDRESS": address}
    subprocess.run([sys.executable, "-m", __name__], check=True, env=environment, capture_output=True)


if __name__ == "__main__":
    ray.init(namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    caller = serve.run(Caller.bind(Idle.bind()), name=NAME, route_prefix=None)
    assert caller.calls.remote().result(), "the idle are called"
