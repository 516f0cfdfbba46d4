"""Registers the models of a run in MLflow, with lineage, metrics and the cold GAUC that promotion looks at."""

from typing import Any

from coldstart.config import Journal, Recipe, read_artifact
from coldstart.registry import ModelVersion, Registry
from workloads.job import main

_STAGE = {"ranker": "train_ranker", "encoder": "align_coarse", "adaptor": "align_fine"}


def run(recipe: Recipe) -> dict[str, ModelVersion]:
    """Registers ranker, encoder and adaptor; models that are registered already are returned as they are."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    evaluation = read_artifact(recipe.run_dir / "evaluation", "evaluation")
    metrics: dict[str, dict[str, Any]] = evaluation.about["metrics"]
    shown = {"ranker": "id", "encoder": "coarse", "adaptor": "fine"}
    models: dict[str, ModelVersion] = {}
    for kind, stage in _STAGE.items():
        figures = {
            f"{slice_name}_{metric}": value
            for slice_name, values in metrics[shown[kind]].items()
            for metric, value in values.items()
            if metric in ("auc", "gauc", "logloss", "ece") and value is not None
        }
        models[kind] = registry.register(
            kind,
            recipe.run_dir / kind,
            recipe=recipe,
            upstream={name: model.version for name, model in models.items()},
            metrics=figures,
            journal=Journal(recipe.run_dir / "journals" / f"{stage}.jsonl"),
        )
    return models
