"""Registers the models of a run in MLflow, with lineage and the metrics that the promotion gates use."""

import json
from typing import Any

from coldstart.config import MetricsLog, Recipe, load_recipe, read_artifact
from coldstart.registry import EvaluationOutputs, ModelVersion, Registry
from coldstart.registry.connection import explain_mlflow_errors
from coldstart.registry.evaluations import log_evaluation
from coldstart.registry.model_card import EVALUATED_VARIANT, write_model_card
from coldstart.registry.paired_comparison import read_scored_rows
from workloads.progress import CONSOLE
from workloads.recipes import find_recipe
from workloads.runner import TRAINED_BY, readable_errors, recipe_arguments

OUTAGE_ADVICE = "nothing is lost: run `coldstart run register` again when it does"


def run(recipe: Recipe) -> dict[str, ModelVersion]:
    """Registers ranker, encoder and adaptor, and logs the evaluation; existing versions are returned unchanged."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    evaluation = read_artifact(recipe.run_dir / "evaluation", "evaluation")
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset", verify=False)
    metrics: dict[str, dict[str, Any]] = evaluation.metadata["metrics"]
    models: dict[str, ModelVersion] = {}
    for kind, stage in TRAINED_BY.items():
        gate_metrics = {
            f"{slice_name}_{metric}": value
            for slice_name, values in metrics[EVALUATED_VARIANT[kind]].items()
            for metric, value in values.items()
            if metric in ("rows", "auc", "gauc", "gauc_item", "logloss", "ece") and value is not None
        }
        upstream = {name: model.version for name, model in models.items()}
        artifact = read_artifact(recipe.run_dir / kind, kind, verify=False)
        writer = "import_ranker" if "imported" in artifact.metadata else stage
        card = write_model_card(
            artifact, recipe, upstream=upstream, dataset=dataset.metadata, evaluation=evaluation.metadata
        )
        with explain_mlflow_errors(recipe.tracking_uri, OUTAGE_ADVICE):
            models[kind] = registry.register(
                kind,
                artifact.path,
                recipe=recipe,
                upstream=upstream,
                metrics_log=MetricsLog(recipe.run_dir / "metrics" / f"{writer}.jsonl"),
                evaluation=EvaluationOutputs(
                    gate_metrics, read_scored_rows(evaluation.path) if kind == "adaptor" else None, card
                ),
            )
    with explain_mlflow_errors(recipe.tracking_uri, OUTAGE_ADVICE):
        log_evaluation(registry, evaluation, recipe, dataset=dataset.fingerprint)
    return models


def main() -> None:
    """Entry point of the workload."""
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
