"""Registers the models of a run in MLflow, with lineage and the metrics that the promotion gates use."""

import json
from typing import Any

from coldstart.config import MetricsLog, Recipe, load_recipe, read_artifact
from coldstart.config.shipped_recipes import find_recipe
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import readable_errors, recipe_arguments, trained_by
from coldstart.methods.available import find_method
from coldstart.methods.base import SCORER
from coldstart.registry import EvaluationOutputs, ModelVersion, Registry, register_model
from coldstart.registry.connection import explain_mlflow_errors
from coldstart.registry.evaluations import log_evaluation
from coldstart.registry.model_card import write_model_card
from coldstart.registry.scored_rows import read_scored_rows

OUTAGE_ADVICE = "nothing is lost: run `coldstart run register` again when it does"


def run(recipe: Recipe) -> dict[str, ModelVersion]:
    """Registers the models of the run's method, and logs the evaluation; existing versions are returned unchanged."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    evaluation = read_artifact(recipe.run_dir / "evaluation", "evaluation")
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset", verify=False)
    scorer = read_artifact(recipe.run_dir / SCORER, SCORER, verify=False)
    method = find_method(scorer.metadata["method"])
    metrics: dict[str, dict[str, Any]] = evaluation.metadata["metrics"]
    models: dict[str, ModelVersion] = {}
    for kind in method.kinds:
        gate_metrics = {
            f"{slice_name}_{metric}": value
            for slice_name, values in metrics[kind.evaluated_as].items()
            for metric, value in values.items()
            if metric in ("rows", "auc", "gauc", "gauc_item", "logloss", "ece") and value is not None
        }
        artifact = read_artifact(recipe.run_dir / kind.name, kind.name, verify=False)
        # An encoder that no ranker was needed for has none in its lineage.
        upstream = {name: model.version for name, model in models.items() if name in artifact.lineage}
        writer = "import_ranker" if "imported" in artifact.metadata else trained_by(recipe)[kind.name]
        card = write_model_card(
            kind, artifact, recipe, upstream=upstream, dataset=dataset.metadata, evaluation=evaluation.metadata
        )
        with explain_mlflow_errors(recipe.tracking_uri, OUTAGE_ADVICE):
            models[kind.name] = register_model(
                registry,
                artifact,
                method=method.name,
                recipe=recipe,
                upstream=upstream,
                metrics_log=MetricsLog(recipe.run_dir / "metrics" / f"{writer}.jsonl"),
                evaluation=EvaluationOutputs(
                    gate_metrics, read_scored_rows(evaluation.path) if kind.name == SCORER else None, card
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
