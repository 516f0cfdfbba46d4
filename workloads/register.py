"""Registers the models of a run in MLflow, with lineage, metrics and the cold GAUC that promotion looks at."""

import json
from typing import Any

from coldstart.config import Journal, Recipe, load_recipe, read_artifact
from coldstart.registry import ModelVersion, Registry
from coldstart.registry.card import VARIANTS, write_card
from coldstart.registry.comparison import evaluated_rows
from coldstart.registry.connection import answering
from coldstart.registry.evaluations import log_evaluation
from workloads.console import CONSOLE
from workloads.job import TRAINED_BY, find_recipe, readable_errors, recipe_arguments

UNDONE = "nothing is lost: run `coldstart run register` again when it does"
"""What is told when the server stops answering."""


def run(recipe: Recipe) -> dict[str, ModelVersion]:
    """Registers ranker, encoder and adaptor, and logs the evaluation; what is there already is returned as it is."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    evaluation = read_artifact(recipe.run_dir / "evaluation", "evaluation")
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset", verify=False)
    metrics: dict[str, dict[str, Any]] = evaluation.about["metrics"]
    models: dict[str, ModelVersion] = {}
    for kind, stage in TRAINED_BY.items():
        figures = {
            f"{slice_name}_{metric}": value
            for slice_name, values in metrics[VARIANTS[kind]].items()
            for metric, value in values.items()
            if metric in ("rows", "auc", "gauc", "gauc_item", "logloss", "ece") and value is not None
        }
        upstream = {name: model.version for name, model in models.items()}
        artifact = read_artifact(recipe.run_dir / kind, kind, verify=False)
        maker = "import_ranker" if "brought" in artifact.about else stage
        card = write_card(artifact, recipe, upstream=upstream, dataset=dataset.about, evaluation=evaluation.about)
        with answering(recipe.tracking_uri, UNDONE):
            models[kind] = registry.register(
                kind,
                artifact.path,
                recipe=recipe,
                upstream=upstream,
                metrics=figures,
                journal=Journal(recipe.run_dir / "journals" / f"{maker}.jsonl"),
                scores=evaluated_rows(evaluation.path) if kind == "adaptor" else None,
                card=card,
            )
    with answering(recipe.tracking_uri, UNDONE):
        log_evaluation(registry, evaluation, recipe, dataset=dataset.fingerprint)
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
