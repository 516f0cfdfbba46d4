"""Compares champion and challenger on the same new events, each scored as it is served, and names the winner."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from coldstart.config import Artifact, Recipe, UserError, load_recipe, read_artifact, write_artifact
from coldstart.config.import_allowlist import allow_import
from coldstart.config.recipe.method import RELEASE
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.batches import UserWindows, users_of
from coldstart.data.dataset import Dataset
from coldstart.data.features import NO_TARGET_FEATURES, FeatureSchema
from coldstart.data.item_table import ItemTable, check_columns
from coldstart.data.schema import TEST
from coldstart.evaluation.compare.release_comparison import compare_releases
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.scoring import Logits
from coldstart.evaluation.protocol.variants import BASELINE, CHALLENGER, CHAMPION, OOV_SUFFIX
from coldstart.evaluation.report.html_pages import figure, p_value, signed
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import readable_errors, recipe_arguments
from coldstart.jobs.serving.replay import Replay, build_replay
from coldstart.methods.available import find_method
from coldstart.methods.base import SCORER, Method, adapt
from coldstart.rankers.scorer import unknown_targets
from coldstart.rankers.storage import read_item_features, read_item_index
from coldstart.registry import Registry, Release, resolve
from coldstart.registry.connection import explain_mlflow_errors
from coldstart.registry.evaluations import log_evaluation
from coldstart.registry.scored_rows import SCORED_COLUMNS, log_replay

WINDOWS_PER_PASS = 64
NOTHING_CHANGED = "no model was promoted; run the command again when it answers"
"""Added to the error if the MLflow server stops answering."""


class ReleaseScorer:
    """Scores the events of a replay with a release, exactly as it is served.

    Args:
        release: From the registry.
        item_ids: [N] items of the replay. Items that the release does not have get its OOV row.
        schema: Features of the run's dataset.

    Raises:
        UserError: its scorer reads features that the dataset lacks or has with other values.
    """

    def __init__(self, release: Release, item_ids: list[str], schema: FeatureSchema) -> None:
        method = find_method(release.method)
        self._scorer = method.load_scorer(release.paths)
        _check_features(release, self._scorer.features, schema)
        catalog = method.catalog_dir(release.paths)
        self._item_features = read_item_features(catalog, self._scorer.features)
        index = read_item_index(catalog)
        self._row_of = np.array([0, *(index.get(item_id, 0) for item_id in item_ids)], np.int32)
        self._items = _served_items(release, method)
        check_columns(
            self._items.specs, self._scorer.inputs, table="its adaptor", reader=f"the scorer of {release.name}"
        )

    @property
    def trained(self) -> NDArray[np.bool_]:
        """[N + 1] items of the replay whose ID row the release uses."""
        return np.asarray(self._scorer.id_weight.numpy()[self._row_of] > 0)

    @torch.inference_mode()
    def score(self, events: Replay) -> Logits:
        """Logits of the release and of its OOV row, for the target events in their order."""
        sequences, features = events.sequences, NO_TARGET_FEATURES
        if self._scorer.features:
            features = replace(sequences.features, item=self._item_features)
        sequences = replace(sequences, item_idx=self._row_of[sequences.item_idx], features=features)
        windows = UserWindows(sequences, history=self._scorer.max_history, splits=[TEST])
        rows: list[NDArray[np.int64]] = []
        logits: dict[str, list[NDArray[np.float32]]] = {RELEASE: [], BASELINE: []}
        for batch in windows.iter_eval(windows_per_step=WINDOWS_PER_PASS):
            counts = batch.weight > 0
            rows.append(batch.event_index[counts].numpy())
            for name, variant in ((RELEASE, batch), (BASELINE, unknown_targets(batch))):
                logits[name].append(self._scorer(variant, self._items)[counts].float().numpy())
        order = np.argsort(np.concatenate(rows))
        return {name: np.concatenate(parts)[order] for name, parts in logits.items()}


def _served_items(release: Release, method: Method) -> ItemTable:
    """The columns that the scorer reads, for the catalog of the release."""
    adaptor = method.load_adaptor(release.paths)
    items = ItemTable.open(release.items.path)
    check_columns(items.specs, adaptor.inputs, table="its item table", reader=f"the adaptor of {release.name}")
    return adapt(adaptor, items)


def run(recipe: Recipe) -> Artifact:
    """Compares the releases at champion and challenger and writes `<run_dir>/release_comparison`.

    The scored rows are logged with both versions in the registry, where the gates of a promotion use them.

    Raises:
        UserError: an alias is not set, both aliases have the same version, there are no rows that neither release was
            trained on, or a scorer reads features that the run's dataset lacks.
    """
    registry = Registry(recipe.tracking_uri, recipe.project)
    with explain_mlflow_errors(recipe.tracking_uri, NOTHING_CHANGED):
        releases = {alias: resolve(registry, alias) for alias in (CHAMPION, CHALLENGER)}
    versions = {alias: release.versions[SCORER] for alias, release in releases.items()}
    if versions[CHAMPION] == versions[CHALLENGER]:
        raise UserError(
            f"{releases[CHAMPION].name} is both champion and challenger; choose another challenger with "
            "`coldstart promote scorer VERSION --to challenger`"
        )
    dataset = Dataset.open(recipe.run_dir / "dataset")
    with explain_mlflow_errors(recipe.tracking_uri, NOTHING_CHANGED):
        events = build_replay(recipe, dataset, list(releases.values()), registry)
    scorers = {alias: ReleaseScorer(release, events.item_ids, dataset.features) for alias, release in releases.items()}
    logits = {alias: scorer.score(events) for alias, scorer in scorers.items()}
    rows = _rows(events, scorers, logits)
    metadata = {
        "releases": {alias: release.name for alias, release in releases.items()},
        "rows": _row_stats(events, rows),
        "confidence": recipe.evaluation.confidence,
        "resamples": recipe.evaluation.num_resamples,
        **compare_releases(rows, recipe.evaluation, seed=recipe.seed),
    }
    lineage = {"dataset": dataset.artifact.fingerprint}
    lineage |= {alias: release.scorer.fingerprint for alias, release in releases.items()}
    path = recipe.run_dir / "release_comparison"
    with write_artifact(path, "release_comparison", lineage, metadata) as draft:
        (draft / "release_comparison.json").write_text(json.dumps(metadata, indent=2, allow_nan=False))
    artifact = read_artifact(path, "release_comparison")
    scored = {
        versions[alias]: replace(rows, logits=logits[alias]).to_table().select(SCORED_COLUMNS) for alias in releases
    }
    with explain_mlflow_errors(recipe.tracking_uri, NOTHING_CHANGED):
        log_replay(registry, scored, events.fingerprint)
        log_evaluation(registry, artifact, recipe, dataset=dataset.artifact.fingerprint)
    return artifact


def _check_features(release: Release, read: FeatureSchema, schema: FeatureSchema) -> None:
    if not read or read == schema:
        return
    missing = {one.key for one in read.features}.difference(one.key for one in schema.features)
    if missing:
        raise UserError(
            f"the scorer of {release.name} reads {', '.join(sorted(missing))}, which the run's dataset lacks; name the "
            "columns in data.files.columns and prepare the dataset again"
        )
    raise UserError(
        f"the scorer of {release.name} was trained on features with other values than the run's dataset has; replay it "
        "in the run it comes from"
    )


def _rows(events: Replay, scorers: Mapping[str, ReleaseScorer], logits: Mapping[str, Logits]) -> ScoredRows:
    sequences, event = events.sequences, np.flatnonzero(events.targets)
    item, when = sequences.item_idx[event].astype(np.int64), sequences.timestamp[event]
    known = np.logical_or.reduce([scorer.trained for scorer in scorers.values()])
    train_events = np.where(known, np.maximum(events.train_events, 1), 0)
    return ScoredRows(
        user_idx=users_of(sequences, event),
        item_idx=item,
        event=event,
        timestamp=when,
        label=sequences.label[event],
        train_events=train_events[item],
        train_clicks=np.zeros(len(event), np.int64),
        age_s=when - events.published_at[item],
        logits={alias: found[RELEASE] for alias, found in logits.items()}
        | {alias + OOV_SUFFIX: found[BASELINE] for alias, found in logits.items()},
    )


def _row_stats(events: Replay, rows: ScoredRows) -> dict[str, Any]:
    return {
        "kind": "test" if events.newer_than is None else "fresh",
        "after": events.newer_than,
        "rows": len(rows),
        "users": len(np.unique(rows.user_idx)),
        "items": len(np.unique(rows.item_idx)),
        "rejected": events.rejected,
        "fingerprint": events.fingerprint,
    }


def show(metadata: Mapping[str, Any]) -> None:
    """Prints a comparison for people."""
    rows = metadata["rows"]
    kind = "fresh events" if rows["kind"] == "fresh" else "test rows (there are no events after the training data)"
    CONSOLE.print(f"{rows['rows']} {kind} of {rows['users']} users and {rows['items']} items", soft_wrap=True)
    for reason, count in rows["rejected"].items():
        CONSOLE.print(f"[yellow]note[/]  {count} events of the source are left out: {reason}", soft_wrap=True)
    titles = ("slice", "metric", *(metadata["releases"][alias] for alias in (CHAMPION, CHALLENGER)), "difference")
    table = Table(*titles, f"{metadata['confidence'] * 100:g}% interval", "p (Holm)", box=None, padding=(0, 2, 0, 0))
    for entry in sorted(
        metadata["differences"], key=lambda entry: list(metadata["metrics"][CHAMPION]).index(entry["slice"])
    ):
        interval = f"{signed(entry['low_both'])} to {signed(entry['high_both'])}"
        values = (figure(entry[alias]) for alias in (CHAMPION, CHALLENGER))
        table.add_row(
            entry["slice"], entry["metric"], *values, signed(entry["delta"]), interval, p_value(entry["p_holm"])
        )
    CONSOLE.print(table)
    CONSOLE.print(metadata["verdict"], soft_wrap=True)


def main() -> None:
    """Compares releases as a program."""
    arguments = recipe_arguments("compare_releases", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        allow_import(recipe.ranker.kind)
        artifact = run(recipe)
    if arguments.json:
        print(json.dumps(artifact.metadata))
    else:
        show(artifact.metadata)
