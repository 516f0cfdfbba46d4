"""Idle replicas on the server's Ray: what a process of Serve comes to hold in half an hour by itself.

`python -m workloads.benchmarks.soak.control` puts them up on the Ray at RAY_ADDRESS, and ends.
"""

import logging
import os
import subprocess
import sys

import ray
from ray import serve

NAME = "control"


@serve.deployment(name=NAME, num_replicas=2, ray_actor_options={"num_cpus": 0.01})
class Idle:
    """Answers nobody."""

    async def __call__(self) -> None:
        """Is never called."""


def start(address: str) -> None:
    """Puts the replicas up from a process of its own, so that this one stays outside that Ray."""
    environment = os.environ | {"RAY_ADDRESS": address}
    subprocess.run([sys.executable, "-m", __name__], check=True, env=environment, capture_output=True)


if __name__ == "__main__":
    ray.init(namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    serve.run(Idle.bind(), name=NAME, route_prefix=None)
