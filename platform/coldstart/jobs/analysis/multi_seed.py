"""Trains and evaluates several seeds on the same rows, to see differences beyond the variance of one training."""

import json
import os
from pathlib import Path

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.evaluation.compare.evaluated_runs import EvaluatedRun
from coldstart.evaluation.compare.seed_aggregation import aggregate_seeds
from coldstart.evaluation.report.run_report import render_seeds, seeds_table
from coldstart.jobs.pipeline import link_artifact, nested_run, run_outdated_stages
from coldstart.jobs.progress import CONSOLE
from coldstart.registry import Registry
from coldstart.registry.evaluations import log_evaluation


def run(recipe: Recipe, *, count: int) -> Artifact:
    """Trains and evaluates the seeds `recipe.seed`, `recipe.seed + 1`, ..., and aggregates their metrics.

    All seeds use the dataset of the run, and so its split. The other seeds are in `<run>/seeds/<seed>/`. Stages that
    are up to date are kept, so an interrupted command can be resumed.

    Raises:
        UserError: fewer than two seeds, or a recipe that ends before evaluation.
    """
    if count < 2:
        raise UserError(f"--seeds {count} leaves nothing to compare; it must be 2 or more")
    _, artifacts = run_outdated_stages(recipe)
    if "evaluation" not in artifacts:
        raise UserError("a run that brings an ID table only is not evaluated, so it has no seeds to compare")
    runs = {recipe.seed: EvaluatedRun.open(recipe.run_dir)}
    for seed in range(recipe.seed + 1, recipe.seed + count):
        CONSOLE.print(f"[bold]seed {seed}[/]")
        other = with_seed(recipe, seed)
        link_artifact(artifacts["dataset"].path, other.run_dir / "dataset")
        run_outdated_stages(other, artifacts["dataset"])
        runs[seed] = EvaluatedRun.open(other.run_dir)
    metadata = aggregate_seeds(runs)
    CONSOLE.print(seeds_table(metadata))
    lineage = {f"evaluation/{seed}": each.artifact.fingerprint for seed, each in runs.items()}
    path = recipe.run_dir / "evaluation-seeds"
    pages = {seed: Path(os.path.relpath(each.artifact.path / "report.html", path)) for seed, each in runs.items()}
    with write_artifact(path, "evaluation-seeds", lineage, metadata) as draft:
        (draft / "evaluation-seeds.json").write_text(json.dumps(metadata, indent=2, allow_nan=False))
        (draft / "report.html").write_text(render_seeds(recipe.name, metadata, pages))
    artifact = read_artifact(path, "evaluation-seeds")
    registry = Registry(recipe.tracking_uri, recipe.project)
    log_evaluation(registry, artifact, recipe, dataset=artifacts["dataset"].fingerprint)
    return artifact


def with_seed(recipe: Recipe, seed: int, *, folder: str = "seeds") -> Recipe:
    """The recipe of another seed of a run, with the run directory `<run>/<folder>/<seed>/`."""
    return nested_run(recipe, folder, str(seed)).model_copy(update={"seed": seed})
