"""Update: newer events of the same catalog train what follows changing behavior, from the champion on.

Encoder, item table and ranker stay those of the champion, so an update takes minutes. It is a run of its own in
`<run>/updates/`, with a dataset of the tables as they are now, an evaluation, and a new scorer version to promote.
"""

import json
from dataclasses import dataclass

import pyarrow as pa

from coldstart.config import Artifact, Recipe, UserError, load_recipe, read_artifact
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.dataset import Dataset
from coldstart.data.schema import DIGESTS, TRAIN
from coldstart.jobs.analysis import evaluate
from coldstart.jobs.pipeline import PREPARE, check, inputs_digest, link_artifact, nested_run, run_outdated_stages
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments, run_stage
from coldstart.jobs.stages import register
from coldstart.methods.available import find_method
from coldstart.methods.base import Champion
from coldstart.registry import ModelVersion, Registry, Release, resolve

STAGE = "update"
FOLDER = "updates"
"""Directory of the updates, in that of the run."""


@dataclass(frozen=True)
class Update:
    """An update that is registered.

    Attributes:
        scorer: Trained further.
        models: kind -> version; only the scorer is new.
    """

    scorer: Artifact
    models: dict[str, ModelVersion]


def run(recipe: Recipe) -> Update:
    """Trains, evaluates and registers an update of the champion.

    Raises:
        UserError: there is no champion of this run, the method has no update, there are no newer events, or the catalog
            or its features have changed.
    """
    champion = resolve(Registry(recipe.tracking_uri, recipe.project))
    if champion.method != recipe.method.name:
        raise UserError(
            f"method.name is {recipe.method.name}, but the champion {champion.name} is of method {champion.method}; "
            f"set method.name: {champion.method}"
        )
    before = _dataset_of(recipe, champion)
    own = update_recipe(recipe)
    _, artifacts = run_outdated_stages(own, kinds=("dataset",))
    since = _check_continues(before, Dataset(artifacts["dataset"]))
    for kind, path in champion.paths.items():
        if kind != champion.scorer.kind:
            link_artifact(path.absolute(), own.run_dir / kind)
    start = Champion(
        champion.scorer, since, (before.artifact.fingerprint, *champion.scorer.metadata.get("continues", ()))
    )
    method = find_method(champion.method)
    scorer = run_stage(STAGE, lambda chosen: method.update(chosen, start), own)
    run_stage("evaluate", evaluate.run, own)
    return Update(scorer, register.run(own))


def update_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the update with the tables as they are now; the same tables give the same run directory."""
    return nested_run(recipe, FOLDER, inputs_digest(PREPARE, recipe, {})[:12])


def _dataset_of(recipe: Recipe, champion: Release) -> Dataset:
    """The dataset that the champion was trained on: the run's, or that of an earlier update.

    Raises:
        UserError: it is not here.
    """
    for directory in (recipe.run_dir, *sorted((recipe.run_dir / FOLDER).glob("*"))):
        if (directory / "dataset").is_dir():
            found = read_artifact(directory / "dataset", "dataset", verify=False)
            if found.fingerprint == champion.dataset:
                return Dataset(found)
    raise UserError(
        f"the champion {champion.name} was trained on dataset {champion.dataset[:12]}, which is not in "
        f"{recipe.run_dir}; run the update with the recipe and paths.runs of that run"
    )


def _check_continues(before: Dataset, now: Dataset) -> int:
    """Checks that a dataset has newer events of the same catalog; returns the time of the last event trained on.

    Raises:
        UserError: it has other items, contents or features, no newer events, or a split that is not by time.
    """
    if now.artifact.metadata["split"]["kind"] != "temporal":
        raise UserError("an update trains on newer events, so it needs data.split.kind: temporal")
    columns = ["item_id", *DIGESTS]
    old, new = (dataset.items(columns).combine_chunks() for dataset in (before, now))
    if not old.equals(new):
        raise UserError(
            f"an update keeps the catalog, but {_difference(old, new)}; publish new items with POST /v1/items or "
            "`coldstart run refresh`, or run the pipeline again"
        )
    if before.features != now.features:
        raise UserError(
            "an update keeps the features of the ranker, but newer events have other categories or ranges of values; "
            "run the pipeline again"
        )
    since, until = (_last_train_event(dataset) for dataset in (before, now))
    if until <= since:
        raise UserError(
            "there are no newer events to train on: the train part of the tables ends where the champion's did; add "
            "files to the directory data.files.events, or lower data.split.valid and data.split.test"
        )
    return since


def _difference(old: pa.Table, new: pa.Table) -> str:
    before, after = (dict(zip(table["item_id"].to_pylist(), range(len(table)), strict=True)) for table in (old, new))
    for what, missing in (("new", after.keys() - before.keys()), ("gone", before.keys() - after.keys())):
        if missing:
            return f"{len(missing)} items are {what}, such as {min(missing)!r}"
    changed = [name for name, row in before.items() if old.slice(row, 1) != new.slice(after[name], 1)]
    return f"the content of {len(changed)} items has changed, such as {changed[0]!r}"


def _last_train_event(dataset: Dataset) -> int:
    sequences = dataset.sequences
    return int(sequences.timestamp[sequences.split == TRAIN].max(initial=0))


def main() -> None:
    """Runs it as a program."""
    arguments = recipe_arguments(STAGE, __doc__).parse_args()
    CONSOLE.stderr = arguments.json
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        check(recipe)
        with ray_cluster(recipe, arguments.address):
            done = run(recipe)
    models = {kind: {"name": model.name, "version": model.version} for kind, model in done.models.items()}
    if arguments.json:
        print(json.dumps({"path": str(done.scorer.path), "metadata": done.scorer.metadata, "models": models}))
        return
    CONSOLE.print(f"      {done.scorer.kind} at {done.scorer.path}")
    newest = models[done.scorer.kind]
    CONSOLE.print(f"next     coldstart promote {done.scorer.kind} {newest['version']} --recipe {arguments.recipe}")
