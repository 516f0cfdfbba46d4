"""A method's encoder in a Ray actor, for all jobs that encode content, and the size of the actor pool."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import torch
from numpy.typing import NDArray

from coldstart.config import UserError, runtime_env
from coldstart.config.recipe import Cluster
from coldstart.data.content import Content
from coldstart.methods.base import Method
from coldstart.ray_compat.core import attainable_resources

ITEMS_PER_BATCH = 64


class EncoderActor:
    """The encoder in one process.

    Args:
        method: The method.
        parts: Kind -> directory of the artifacts that the method's encoder is loaded from.
        threads: Number of torch threads.
    """

    def __init__(self, method: Method, parts: Mapping[str, Path], threads: int) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = method.load_encoder(parts, device)

    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Column -> `[n, ...]` of the encoder's outputs; equal lists give equal results."""
        parts = [
            self.encoder.encode(contents[at : at + ITEMS_PER_BATCH]) for at in range(0, len(contents), ITEMS_PER_BATCH)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def actor_pool_options(cluster: Cluster, tasks: int) -> dict[str, Any]:
    """Arguments of `map_batches` for actors that hold an encoder.

    Args:
        cluster: The recipe section `cluster`.
        tasks: Number of tasks; more actors would be idle.
    """
    return {
        "compute": ray.data.ActorPoolStrategy(size=max(min(cluster.embed_actors, tasks), 1)),
        "num_cpus": 1,
        "num_gpus": cluster.gpus_per_worker or None,
    }


def check_actor_capacity(cluster: Cluster) -> None:
    """Checks that this Ray cluster can schedule the actors.

    Raises:
        UserError: it cannot, and cannot grow so far; the message holds the missing amount.
    """
    available, driver = attainable_resources(), runtime_env.driver_cpus()
    required = {
        "CPU": cluster.embed_actors + driver,
        "GPU": cluster.embed_actors * cluster.gpus_per_worker,
    }
    for kind, amount in required.items():
        if amount > available.get(kind, 0):
            extra = f" and submit.driver_cpus {driver:g}" if kind == "CPU" and driver else ""
            raise UserError(
                f"the Ray cluster has {available.get(kind, 0):g} {kind}s but cluster.embed_actors "
                f"{cluster.embed_actors}{extra} need {amount:g}: {amount - available.get(kind, 0):g} missing; lower "
                "cluster.embed_actors or add nodes"
            )
