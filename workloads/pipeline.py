"""All stages in order, from the user's files to registered models; a stage whose inputs have not changed is skipped."""

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coldstart.config import Artifact, Recipe, UserError, digest, dump_recipe, load_recipe, read_artifact
from coldstart.config.permission import permit
from coldstart.data import contract
from coldstart.data.readers import check_files
from coldstart.encoders.check import check_mllm
from coldstart.rankers import ranker_class
from coldstart.registry import Registry
from workloads import (
    align_coarse,
    align_fine,
    embed_items,
    evaluate,
    import_ranker,
    prepare,
    register,
    train_oracle,
    train_ranker,
)
from workloads.console import CONSOLE
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments, run_stage


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    Attributes:
        name: Module of the workload.
        kind: Noun of the artifact, which is also its directory in the run.
        run: The workload.
        sections: Recipe sections whose change makes the stage run again, besides the seed.
        upstream: Kinds of the artifacts it reads.
    """

    name: str
    kind: str
    run: Callable[[Recipe], Artifact]
    sections: tuple[str, ...]
    upstream: tuple[str, ...]


PREPARE = Stage("prepare", "dataset", prepare.run, ("data",), ())
TRAIN = Stage("train_ranker", "ranker", train_ranker.run, ("ranker",), ("dataset",))
IMPORT = Stage("import_ranker", "ranker", import_ranker.run, ("ranker", "bring"), ("dataset",))
COARSE = (
    Stage("align_coarse", "encoder", align_coarse.run, ("content", "encoder", "coarse"), ("dataset", "ranker")),
    Stage("embed_items", "proxies", embed_items.run, (), ("dataset", "encoder")),
)
FINE = Stage("align_fine", "adaptor", align_fine.run, ("fine",), ("dataset", "ranker", "proxies"))
JOINT = Stage("align_joint", "joint", align_fine.run_joint, ("fine",), ("dataset", "ranker", "proxies"))
ORACLE = Stage("train_oracle", "oracle", train_oracle.run, ("ranker",), ("dataset",))
EVALUATE = Stage(
    "evaluate", "evaluation", evaluate.run, ("evaluation",), ("dataset", "ranker", "encoder", "proxies", "adaptor")
)


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages in order; those after coarse alignment need a whole ranker, not only its ID table."""
    if recipe.bring.id_table is not None:
        return (PREPARE, IMPORT, *COARSE)
    chain = [PREPARE, TRAIN if recipe.bring.weights is None else IMPORT, *COARSE, FINE]
    if recipe.fine.mode == "joint":
        chain.append(JOINT)
    if evaluate.has_oracle(recipe):
        chain.append(ORACLE)
    extra = tuple(stage.kind for stage in (JOINT, ORACLE) if stage in chain)
    return (*chain, replace(EVALUATE, upstream=(*EVALUATE.upstream, *extra)))


def check(recipe: Recipe) -> None:
    """Finds what would stop the pipeline later, before a cluster is touched or minutes are spent.

    Raises:
        UserError: input files or columns are missing, a ranker of one's own cannot be imported, the MLLM cannot be
            loaded, or MLflow does not answer.
    """
    if recipe.data.source == "files":
        check_files(recipe.data.files)
    for path in recipe.bring.files:
        if not path.is_file():
            raise UserError(f"bring: {path} does not exist")
    permit(recipe.ranker.kind)
    ranker_class(recipe.ranker.kind)
    check_mllm(recipe.encoder)
    Registry(recipe.tracking_uri, recipe.project)


def run(recipe: Recipe) -> dict[str, Any]:
    """Runs every stage that is not up to date, registers the models, and says what each stage took.

    Returns:
        `stages` (name -> seconds, skipped, fingerprint) and `models` (kind -> name, version, run_id).
    """
    ledger, artifacts = bring_up_to_date(recipe)
    if "evaluation" not in artifacts:
        CONSOLE.print(f"next     coldstart export proxies.parquet --recipe {recipe.run_dir / 'recipe.yaml'}")
        return {"stages": ledger.taken(recipe), "models": {}}
    began = time.monotonic()
    models = register.run(recipe)
    listed = "  ".join(f"{model.name} v{model.version}" for model in models.values())
    CONSOLE.print(f"[green]done[/]  {'register':<13} {time.monotonic() - began:6.1f} s  [dim]{listed}[/]")
    taken = ledger.taken(recipe) | {"register": {"seconds": round(time.monotonic() - began, 2)}}
    return {
        "stages": taken,
        "models": {kind: {"name": m.name, "version": m.version, "run_id": m.run_id} for kind, m in models.items()},
    }


def bring_up_to_date(
    recipe: Recipe, dataset: Artifact | None = None, *, kinds: Collection[str] | None = None
) -> tuple["_Ledger", dict[str, Artifact]]:
    """Runs every stage whose inputs have changed.

    Args:
        recipe: Of the run.
        dataset: Prepared by another run and shared; it stands in the run directory already.
        kinds: Only the stages that make these; all if None.

    Returns:
        What each stage was made from, and the artifacts by kind.
    """
    ledger = _Ledger(recipe.run_dir / "pipeline.json")
    artifacts = {} if dataset is None else {dataset.kind: dataset}
    for stage in stages(recipe):
        if stage.kind in artifacts or (kinds is not None and stage.kind not in kinds):
            continue
        inputs = _inputs(stage, recipe, artifacts)
        artifact = ledger.up_to_date(stage, inputs, recipe.run_dir / stage.kind)
        if artifact is None:
            began = time.monotonic()
            artifact = run_stage(stage.name, stage.run, recipe)
            ledger.record(stage, inputs, artifact, time.monotonic() - began)
        else:
            CONSOLE.print(f"[cyan]kept[/]  {stage.name:<13} [dim]inputs unchanged[/]")
        artifacts[stage.kind] = artifact
    return ledger, artifacts


def _inputs(stage: Stage, recipe: Recipe, artifacts: dict[str, Artifact]) -> str:
    facts: dict[str, Any] = {name: digest(getattr(recipe, name)) for name in stage.sections}
    facts["seed"] = recipe.seed
    facts |= {kind: artifacts[kind].fingerprint for kind in stage.upstream}
    if stage.kind == "dataset":
        facts["layout"] = contract.LAYOUT
    if stage.kind == "dataset" and recipe.data.source == "files":
        files = recipe.data.files
        tables = [name for name in (files.items, files.events, files.users) if name is not None]
        facts["files"] = [_stamp(files.root / name) for name in tables]
    if "bring" in stage.sections:
        facts["files"] = [_stamp(path) for path in recipe.bring.files]
    return digest(facts)


def _stamp(path: Path) -> list[Any]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


class _Ledger:
    """What each stage of a run was made from and how long it took, kept as JSON beside the artifacts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def up_to_date(self, stage: Stage, inputs: str, path: Path) -> Artifact | None:
        entry = self.stages.get(stage.name)
        if entry is None or entry["inputs"] != inputs:
            return None
        try:
            artifact = read_artifact(path, stage.kind)
        except UserError:
            return None
        return artifact if artifact.fingerprint == entry["fingerprint"] else None

    def taken(self, recipe: Recipe) -> dict[str, dict[str, Any]]:
        """Entries of the recipe's stages, in order."""
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
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        (recipe.run_dir / "recipe.yaml").write_text(dump_recipe(recipe))
        with ray_cluster(recipe, arguments.address):
            result = run(recipe)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
