"""What jobs share that read content with the encoder: an actor's part of it, and how many actors there are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from numpy.typing import NDArray

from coldstart.config import UserError
from coldstart.config.recipe import Cluster
from coldstart.data.content import Content
from coldstart.encoders import Encoder

ITEMS_PER_BATCH = 64


class Reader:
    """The encoder in one process.

    Args:
        encoder: Directory of the artifact.
        threads: Of torch.
    """

    def __init__(self, encoder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = Encoder.load(encoder, self.device)

    @torch.inference_mode()
    def read(self, contents: Sequence[Content]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Coarse proxies `[n, d]` and layer states `[n, G, D]`; equal lists give equal numbers."""
        parts = []
        for at in range(0, len(contents), ITEMS_PER_BATCH):
            arrays = self.encoder.prepare(contents[at : at + ITEMS_PER_BATCH])
            coarse, states = self.encoder(self.encoder.inputs(arrays, self.device))
            parts.append((coarse.cpu().numpy(), states.float().cpu().numpy()))
        coarse, states = (np.concatenate(part) for part in zip(*parts, strict=True))
        return coarse, states


def actors(cluster: Cluster, tasks: int) -> dict[str, Any]:
    """Arguments of `map_batches` for actors that hold an encoder.

    Args:
        cluster: The recipe's section.
        tasks: Most of them that could be of use.
    """
    return {
        "compute": ray.data.ActorPoolStrategy(size=max(min(cluster.embed_actors, tasks), 1)),
        "num_cpus": 1,
        "num_gpus": cluster.gpus_per_worker or None,
    }


def check_capacity(cluster: Cluster) -> None:
    """Finds out early that the actors would wait for ever.

    Raises:
        UserError: the cluster is too small for them.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {"CPU": cluster.embed_actors, "GPU": cluster.embed_actors * cluster.gpus_per_worker}
    for kind, amount in asked.items():
        if amount > there.get(kind, 0):
            raise UserError(
                f"the Ray cluster has {there.get(kind, 0):g} {kind}s but cluster.embed_actors {cluster.embed_actors} "
                f"need {amount:g}: {amount - there.get(kind, 0):g} missing; lower cluster.embed_actors or add nodes"
            )
