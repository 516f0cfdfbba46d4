"""The MLLM checkpoint that a run starts from."""

import logging
from pathlib import Path

from coldstart.config import Recipe, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders import create_tiny_mllm
from coldstart.encoders.hub import pin_commit

PROGRESS = logging.getLogger("coldstart.stages")


def mllm_checkpoint(recipe: Recipe, dataset: Dataset) -> str:
    """Checkpoint directory, or hub name with a commit; creates the tiny MLLM if this run does not have it yet.

    Raises:
        UserError: neither the hub nor the local cache has the checkpoint.
    """
    if recipe.encoder.mllm != "tiny":
        return _existing(recipe.encoder.mllm)
    path = recipe.run_dir.absolute() / "mllm"
    lineage = {"dataset": dataset.artifact.fingerprint}
    metadata = {"image_size": recipe.encoder.image_size, "seed": recipe.seed}
    if path.is_dir():
        existing = read_artifact(path, "mllm")
        if existing.lineage == lineage and existing.metadata == metadata:
            return str(path)
    with write_artifact(path, "mllm", lineage, metadata) as draft:
        create_tiny_mllm(draft, dataset.texts(), image_size=recipe.encoder.image_size, seed=recipe.seed)
    return str(path)


def recorded_name(recipe: Recipe, checkpoint: str) -> str:
    """What an artifact says of its MLLM: the recipe's name, with the commit if it is from the hub."""
    return recipe.encoder.mllm if Path(checkpoint).is_dir() else checkpoint


def _existing(mllm: str) -> str:
    if Path(mllm).is_dir():
        return str(Path(mllm).absolute())
    pinned = pin_commit(mllm)
    if "@" not in mllm:
        PROGRESS.info("encoder.mllm has no revision; write %s to get the same weights next time", pinned)
    return pinned
