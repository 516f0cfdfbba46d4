"""Runs all stages in order, from the user's files to registered models, and skips stages with unchanged inputs."""

import json
import os
import shutil
import time
from collections.abc import Collection, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

from coldstart.config import (
    Artifact,
    Recipe,
    UserError,
    check_run_dir,
    digest,
    load_recipe,
    read_artifact,
    store_recipe,
)
from coldstart.config.import_allowlist import allow_import
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data import schema
from coldstart.data.readers import check_files
from coldstart.encoders.check import check_mllm
from coldstart.jobs.analysis import evaluate
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments, run_stage
from coldstart.jobs.stages import import_ranker, prepare, register, train_ranker
from coldstart.methods.available import find_method
from coldstart.methods.base import Stage
from coldstart.rankers import ranker_class
from coldstart.registry import Registry

PREPARE = Stage("prepare", "dataset", prepare.run, ("data",))
TRAIN = Stage("train_ranker", "ranker", train_ranker.run, ("ranker",), ("dataset",))
IMPORT = Stage("import_ranker", "ranker", import_ranker.run, ("ranker",), ("dataset",))


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages in order: dataset, ranker, those of the method, and the evaluation of a complete ranker."""
    source = (PREPARE, TRAIN if recipe.ranker.pretrained.weights is None else IMPORT)
    if recipe.ranker.pretrained.id_table is not None:
        return (PREPARE, IMPORT, *find_method(recipe.method.name).stages(recipe))
    evaluated = (*source, *evaluate.stages(recipe))
    inputs = tuple(stage.output for stage in evaluated)
    return (*evaluated, Stage("evaluate", "evaluation", evaluate.run, ("evaluation", "mature_events"), inputs))


def check(recipe: Recipe) -> None:
    """Finds errors that would stop the pipeline later, before a cluster is used.

    Raises:
        UserError: input files or columns are missing, a custom ranker cannot be imported, the MLLM cannot be loaded, or
            MLflow does not answer.
    """
    check_run_dir(recipe)
    if recipe.data.source == "files":
        check_files(recipe.data.files)
    for path in recipe.ranker.pretrained.files:
        if not path.is_file():
            raise UserError(f"ranker.pretrained: {path} does not exist; correct the path in the recipe")
    allow_import(recipe.ranker.kind)
    ranker_class(recipe.ranker.kind)
    if recipe.method.uses_mllm:
        check_mllm(recipe.encoder)
    Registry(recipe.tracking_uri, recipe.project)


def run(recipe: Recipe) -> dict[str, Any]:
    """Runs every outdated stage and registers the models.

    Returns:
        `stages` (name -> seconds, inputs, fingerprint) and `models` (kind -> name, version, run_id).
    """
    state, artifacts = run_outdated_stages(recipe)
    if "evaluation" not in artifacts:
        CONSOLE.print(f"next     coldstart export proxies.parquet --recipe {recipe.run_dir / 'recipe.yaml'}")
        return {"stages": state.entries(recipe), "models": {}}
    started = time.monotonic()
    models = register.run(recipe)
    versions = "  ".join(f"{model.name} v{model.version}" for model in models.values())
    CONSOLE.print(f"[green]done[/]  {'register':<13} {time.monotonic() - started:6.1f} s  [dim]{versions}[/]")
    register_entry = {"register": {"seconds": round(time.monotonic() - started, 2)}}
    return {
        "stages": state.entries(recipe) | register_entry,
        "models": {kind: {"name": m.name, "version": m.version, "run_id": m.run_id} for kind, m in models.items()},
    }


def run_outdated_stages(
    recipe: Recipe,
    dataset: Artifact | None = None,
    *,
    kinds: Collection[str] | None = None,
    lenders: Iterable[Path] = (),
) -> tuple["_PipelineState", dict[str, Artifact]]:
    """Runs every stage whose inputs have changed.

    Args:
        recipe: Recipe of the run.
        dataset: A dataset that another run prepared and that is already in the run directory.
        kinds: Run only the stages that write these kinds; `None` runs all.
        lenders: Directories of other runs. What a stage of theirs made from the same inputs is linked, not made again.

    Returns:
        The inputs and seconds of each stage, and the artifacts by kind.
    """
    state = _PipelineState(recipe.run_dir / "pipeline.json")
    artifacts = {} if dataset is None else {dataset.kind: dataset}
    for stage in stages(recipe):
        if stage.output in artifacts or (kinds is not None and stage.output not in kinds):
            continue
        inputs = inputs_digest(stage, recipe, artifacts)
        path = recipe.run_dir / stage.output
        artifact = state.find_current(stage, inputs, path) or state.borrow(stage, inputs, path, lenders)
        if artifact is None:
            if path.is_symlink():
                path.unlink()
            started = time.monotonic()
            artifact = run_stage(stage.name, stage.run, recipe)
            state.record(stage, inputs, artifact, time.monotonic() - started)
        else:
            CONSOLE.print(f"[cyan]kept[/]  {stage.name:<13} [dim]inputs unchanged[/]")
        artifacts[stage.output] = artifact
        if stage.output == "dataset":
            check_modalities(recipe, artifact)
    return state, artifacts


def check_modalities(recipe: Recipe, dataset: Artifact) -> None:
    """Checks, before anything is trained, that items have what the method reads.

    Raises:
        UserError: no item of the dataset has one of the method's modalities.
    """
    counts = dataset.metadata["text"]
    found = {"image": counts["with_image"], "text": counts["with_title"] + counts["with_text"]}
    for modality in recipe.method.required_modalities:
        if not found[modality]:
            raise UserError(
                f"method.name {recipe.method.name} reads the {modality} of items, but none of the "
                f"{dataset.metadata['items']} items of the dataset has one; add it to the items table or choose "
                "another method"
            )


def inputs_digest(stage: Stage, recipe: Recipe, artifacts: dict[str, Artifact]) -> str:
    """Digest of all that a stage reads; with another one it runs again."""
    facts: dict[str, Any] = {name: digest(attrgetter(name)(recipe)) for name in stage.sections}
    facts["seed"] = recipe.seed
    facts |= {kind: artifacts[kind].fingerprint for kind in stage.inputs}
    if stage.output == "dataset":
        facts["layout"] = schema.LAYOUT
    if stage.output == "dataset" and recipe.data.source == "files":
        files = recipe.data.files
        tables = [name for name in (files.items, files.events, files.users) if name is not None]
        facts["files"] = [_file_stats(files.root / name) for name in tables]
    if stage.name == IMPORT.name:
        facts["files"] = [_file_stats(path) for path in recipe.ranker.pretrained.files]
    return digest(facts)


def stage_seconds(run_dir: Path, names: Iterable[str]) -> float:
    """Seconds that stages of a run took, in this run or in that which made their artifacts; 0 for those not run."""
    entries = _PipelineState(run_dir / "pipeline.json").stages
    return sum(float(entries[name]["seconds"]) for name in names if name in entries)


def nested_run(recipe: Recipe, folder: str, name: str) -> Recipe:
    """The recipe of a run in `<run_dir>/<folder>/<name>`, which registers where this one does."""
    paths = recipe.paths.model_copy(update={"runs": recipe.run_dir / folder})
    registry = recipe.registry.model_copy(update={"tracking_uri": recipe.tracking_uri, "project": recipe.project})
    return recipe.model_copy(update={"name": name, "paths": paths, "registry": registry})


def link_artifact(artifact: Path, link: Path) -> None:
    """Links an artifact of one run into the directory of another, in place of what is there."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    link.symlink_to(os.path.relpath(artifact, link.parent), target_is_directory=True)


def _file_stats(path: Path) -> list[Any]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


class _PipelineState:
    """Inputs digest, fingerprint and seconds of each stage of a run, stored as JSON next to the artifacts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def find_current(self, stage: Stage, inputs: str, path: Path) -> Artifact | None:
        """Returns the artifact if the stage wrote it from the same inputs and its files are intact."""
        entry = self.stages.get(stage.name)
        if entry is None or entry["inputs"] != inputs:
            return None
        try:
            artifact = read_artifact(path, stage.output)
        except UserError:
            return None
        return artifact if artifact.fingerprint == entry["fingerprint"] else None

    def borrow(self, stage: Stage, inputs: str, path: Path, lenders: Iterable[Path]) -> Artifact | None:
        """Links the artifact that the same stage of another run wrote from the same inputs, if one did."""
        for lender in lenders:
            other = _PipelineState(lender / "pipeline.json")
            found = other.find_current(stage, inputs, lender / stage.output)
            if found is not None:
                link_artifact(found.path, path)
                self.record(stage, inputs, found, other.stages[stage.name]["seconds"])
                return found
        return None

    def entries(self, recipe: Recipe) -> dict[str, dict[str, Any]]:
        """Returns the entries of the recipe's stages, in order."""
        return {stage.name: self.stages[stage.name] for stage in stages(recipe)}

    def record(self, stage: Stage, inputs: str, artifact: Artifact, seconds: float) -> None:
        entry = {"inputs": inputs, "fingerprint": artifact.fingerprint, "seconds": round(seconds, 2)}
        self.stages[stage.name] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.stages, indent=2))
        draft.replace(self.path)


def main() -> None:
    """Runs the pipeline as a program."""
    arguments = recipe_arguments("pipeline", __doc__).parse_args()
    CONSOLE.stderr = arguments.json
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        check(recipe)
        store_recipe(recipe)
        with ray_cluster(recipe, arguments.address):
            result = run(recipe)
    if arguments.json:
        print(json.dumps(result))
