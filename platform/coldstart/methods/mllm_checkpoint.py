"""The MLLM checkpoint that a run starts from."""

from pathlib import Path

from coldstart.config import Recipe, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders import create_tiny_mllm


def mllm_checkpoint(recipe: Recipe, dataset: Dataset) -> str:
    """Checkpoint directory or hub name; creates the tiny MLLM if this run does not have it yet."""
    if recipe.encoder.mllm != "tiny":
        local = Path(recipe.encoder.mllm)
        return str(local.absolute()) if local.is_dir() else recipe.encoder.mllm
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
