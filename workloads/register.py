"""Registers the models of a run in MLflow, with lineage, metrics and the cold GAUC that promotion looks at."""

import json
from typing import Any

from coldstart.config import Journal, Recipe, load_recipe, read_artifact
from coldstart.registry import ModelVersion, Registry
from workloads.console import CONSOLE
from workloads.job import find_recipe, readable_errors, recipe_arguments

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
            if metric in ("auc", "gauc", "gauc_item", "logloss", "ece") and value is not None
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


def main() -> None:
    """Registers as a program."""
    arguments = recipe_arguments("register", __doc__).parse_args()
    with readable_errors():
        models = run(load_recipe(find_recipe(arguments.recipe), arguments.set))
    if arguments.json:
        print(json.dumps({kind: {"name": model.name, "version": model.version} for kind, model in models.items()}))
        return
    for model in models.values():
        CONSOLE.print(f"{model.name} v{model.version}")


if __name__ == "__main__":
    main()
