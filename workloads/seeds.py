"""Evaluates several training seeds on the same rows: what a difference is worth beyond the luck of one training."""

import json
import os
from pathlib import Path

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.evaluation.report import render_seeds, seeds_table
from coldstart.evaluation.runs import EvaluatedRun
from coldstart.evaluation.seeds import over_seeds
from coldstart.registry import Registry
from coldstart.registry.evaluations import log_evaluation
from workloads.console import CONSOLE
from workloads.pipeline import bring_up_to_date


def run(recipe: Recipe, *, count: int) -> Artifact:
    """Trains and evaluates the seeds `recipe.seed`, `recipe.seed + 1`, ..., and puts them together.

    The dataset, and with it the split, is the run's own for every seed. Other seeds live in `<run>/seeds/<seed>/`;
    like the run itself they keep what is up to date, so a stopped command goes on where it was.

    Raises:
        UserError: fewer than two seeds, or a recipe that ends before evaluation.
    """
    if count < 2:
        raise UserError(f"--seeds {count} leaves nothing to compare; ask for 2 or more")
    _, artifacts = bring_up_to_date(recipe)
    if "evaluation" not in artifacts:
        raise UserError("a run that brings an ID table only is not evaluated, so it has no seeds to compare")
    runs = {recipe.seed: EvaluatedRun.open(recipe.run_dir)}
    for seed in range(recipe.seed + 1, recipe.seed + count):
        CONSOLE.print(f"[bold]seed {seed}[/]")
        other = with_seed(recipe, seed)
        share_dataset(artifacts["dataset"].path, other.run_dir / "dataset")
        bring_up_to_date(other, artifacts["dataset"])
        runs[seed] = EvaluatedRun.open(other.run_dir)
    about = over_seeds(runs)
    CONSOLE.print(seeds_table(about))
    lineage = {f"evaluation/{seed}": each.artifact.fingerprint for seed, each in runs.items()}
    path = recipe.run_dir / "evaluation-seeds"
    pages = {seed: Path(os.path.relpath(each.artifact.path / "report.html", path)) for seed, each in runs.items()}
    with write_artifact(path, "evaluation-seeds", lineage, about) as draft:
        (draft / "evaluation-seeds.json").write_text(json.dumps(about, indent=2, allow_nan=False))
        (draft / "report.html").write_text(render_seeds(recipe.name, about, pages))
    artifact = read_artifact(path, "evaluation-seeds")
    registry = Registry(recipe.tracking_uri, recipe.project)
    log_evaluation(registry, artifact, recipe, dataset=artifacts["dataset"].fingerprint)
    return artifact


def with_seed(recipe: Recipe, seed: int, *, among: str = "seeds") -> Recipe:
    """The recipe of another seed of a run, which lives in `<run>/<among>/<seed>/`."""
    paths = recipe.paths.model_copy(update={"runs": recipe.run_dir / among})
    registry = recipe.registry.model_copy(update={"tracking_uri": recipe.tracking_uri, "project": recipe.project})
    return recipe.model_copy(update={"name": str(seed), "seed": seed, "paths": paths, "registry": registry})


def share_dataset(dataset: Path, place: Path) -> None:
    """Puts a run's dataset into the place of another seed's."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(os.path.relpath(dataset, place.parent), target_is_directory=True)
