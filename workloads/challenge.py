"""Challenge: replays champion and challenger on the same fresh events, each as it is served, and says which wins."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from coldstart.alignment import fine_proxies, load_adaptor
from coldstart.alignment.hand_over import blend, load_id_shares
from coldstart.config import Artifact, Recipe, UserError, load_recipe, read_artifact, write_artifact
from coldstart.config.permission import permit
from coldstart.data.batches import UserWindows, users_of
from coldstart.data.contract import TEST
from coldstart.data.dataset import Dataset
from coldstart.data.features import NO_TARGET_FEATURES, FeatureSchema
from coldstart.encoders.proxies import read_proxies
from coldstart.evaluation.challenge import challenge
from coldstart.evaluation.pages import figure, p_value, signed
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.scoring import Logits, score_rows
from coldstart.evaluation.variants import BASELINE, CHALLENGER, CHAMPION, CONTEXTS
from coldstart.rankers import load_ranker
from coldstart.rankers.storage import read_item_features, vocabulary
from coldstart.registry import Registry, Release, resolve
from coldstart.registry.comparison import COLUMNS
from coldstart.registry.connection import answering
from coldstart.registry.evaluations import log_evaluation
from workloads.console import CONSOLE
from workloads.job import find_recipe, readable_errors, recipe_arguments
from workloads.replay import Replay, replay

SERVED = "release"
WINDOWS_PER_PASS = 64
UNDONE = "nothing was promoted; run it again when it does"
"""What is told when the server stops answering."""


class Contender:
    """A release that scores the events of a replay as it is served: cold items by fine proxy, handed over to their ID.

    Args:
        release: From the registry.
        item_ids: [N] of the replay; one that the release does not have is out of vocabulary to it.
        schema: Features of the run's dataset.

    Raises:
        UserError: its ranker reads features that the dataset lacks, or has learnt otherwise.
    """

    def __init__(self, release: Release, item_ids: list[str], schema: FeatureSchema) -> None:
        self._ranker = load_ranker(release.ranker.path)
        _check_features(release, self._ranker.features, schema)
        self._item_features = read_item_features(release.ranker.path, self._ranker.features)
        index = vocabulary(release.ranker.path)
        self._place = np.array([0, *(index.get(item_id, 0) for item_id in item_ids)], np.int32)
        groups = int(release.proxies.about["groups"])
        proxies = read_proxies(release.proxies.path, len(index), groups=groups)
        coarse, states = (torch.from_numpy(part) for part in proxies)
        fine = fine_proxies(load_adaptor(release.adaptor.path), coarse, states)
        with torch.inference_mode():
            ids = self._ranker.id_slots(torch.arange(len(fine)))
            slots = blend(ids, fine, load_id_shares(release.adaptor.path, self._ranker.trained))
            self._tables = {SERVED: torch.cat([ids[:1], slots[1:]]), BASELINE: ids[:1].expand_as(ids)}

    @property
    def trained(self) -> NDArray[np.bool_]:
        """[N + 1] items of the replay that have a trained row."""
        return np.asarray(self._ranker.trained.numpy()[self._place])

    def score(self, events: Replay) -> Logits:
        """What is served and what the OOV row would get: logits of the events that are asked about, in their order."""
        known, features = events.sequences, NO_TARGET_FEATURES
        if self._ranker.features:
            features = replace(known.features, item=self._item_features)
        mine = replace(known, item_idx=self._place[known.item_idx], features=features)
        windows = UserWindows(mine, history=self._ranker.history, splits=[TEST])
        rows, logits = score_rows(self._ranker, windows.sweep(windows_per_step=WINDOWS_PER_PASS), self._tables)
        order = np.argsort(rows)
        return {name: values[order] for name, values in logits.items()}


def run(recipe: Recipe) -> Artifact:
    """Compares the releases at champion and challenger and writes `<run_dir>/challenge`.

    The scored rows are kept in the registry with both versions, so that the gates of a promotion compare them there.

    Raises:
        UserError: nothing stands at an alias, the same version stands at both, there are no rows that both may be asked
            about, or a ranker reads features that the run's dataset lacks.
    """
    registry = Registry(recipe.tracking_uri, recipe.project)
    with answering(recipe.tracking_uri, UNDONE):
        sides = {alias: resolve(registry, alias) for alias in (CHAMPION, CHALLENGER)}
    versions = {alias: release.versions["adaptor"] for alias, release in sides.items()}
    if versions[CHAMPION] == versions[CHALLENGER]:
        raise UserError(
            f"{sides[CHAMPION].name} is champion and challenger at once; `coldstart promote adaptor VERSION "
            "--to challenger` sets another one against it"
        )
    dataset = Dataset.open(recipe.run_dir / "dataset")
    with answering(recipe.tracking_uri, UNDONE):
        events = replay(recipe, dataset, list(sides.values()), registry)
    contenders = {alias: Contender(release, events.item_ids, dataset.features) for alias, release in sides.items()}
    logits = {alias: contender.score(events) for alias, contender in contenders.items()}
    rows = _rows(events, contenders, logits)
    about = {
        "releases": {alias: release.name for alias, release in sides.items()},
        "rows": _told(events, rows),
        "confidence": recipe.evaluation.confidence,
        "resamples": recipe.evaluation.bootstrap,
        **challenge(rows, recipe.evaluation, seed=recipe.seed),
    }
    lineage = {"dataset": dataset.artifact.fingerprint}
    lineage |= {alias: release.adaptor.fingerprint for alias, release in sides.items()}
    path = recipe.run_dir / "challenge"
    with write_artifact(path, "challenge", lineage, about) as draft:
        (draft / "challenge.json").write_text(json.dumps(about, indent=2, allow_nan=False))
    artifact = read_artifact(path, "challenge")
    kept = {versions[alias]: replace(rows, logits=logits[alias]).to_table().select(COLUMNS) for alias in sides}
    with answering(recipe.tracking_uri, UNDONE):
        registry.keep_replay(kept, events.fingerprint)
        log_evaluation(registry, artifact, recipe, dataset=dataset.artifact.fingerprint)
    return artifact


def _check_features(release: Release, read: FeatureSchema, schema: FeatureSchema) -> None:
    if not read or read == schema:
        return
    lacking = {one.key for one in read.features}.difference(one.key for one in schema.features)
    if lacking:
        raise UserError(
            f"the ranker of {release.name} reads {', '.join(sorted(lacking))}, which the run's dataset lacks; name the "
            "columns in data.files.columns and prepare the dataset again"
        )
    raise UserError(
        f"the ranker of {release.name} was trained on features with other values than the run's dataset has; replay it "
        "in the run it comes from"
    )


def _rows(events: Replay, contenders: Mapping[str, Contender], logits: Mapping[str, Logits]) -> ScoredRows:
    sequences, event = events.sequences, np.flatnonzero(events.asked)
    item, when = sequences.item_idx[event].astype(np.int64), sequences.timestamp[event]
    known = np.logical_or.reduce([contender.trained for contender in contenders.values()])
    train_events = np.where(known, np.maximum(events.train_events, 1), 0)
    return ScoredRows(
        user_idx=users_of(sequences, event),
        item_idx=item,
        event=event,
        timestamp=when,
        label=sequences.label[event],
        train_events=train_events[item],
        train_clicks=np.zeros(len(event), np.int64),
        age_s=when - events.published[item],
        logits={alias: found[SERVED] for alias, found in logits.items()}
        | {CONTEXTS[alias]: found[BASELINE] for alias, found in logits.items()},
    )


def _told(events: Replay, rows: ScoredRows) -> dict[str, Any]:
    return {
        "kind": "test" if events.after is None else "fresh",
        "after": events.after,
        "rows": len(rows),
        "users": len(np.unique(rows.user_idx)),
        "items": len(np.unique(rows.item_idx)),
        "rejected": events.rejected,
        "fingerprint": events.fingerprint,
    }


def show(about: Mapping[str, Any]) -> None:
    """Prints what a challenge found, for people."""
    rows = about["rows"]
    which = "fresh events" if rows["kind"] == "fresh" else "test rows (no event is later than what they were made from)"
    CONSOLE.print(f"{rows['rows']} {which} of {rows['users']} users and {rows['items']} items", soft_wrap=True)
    for reason, count in rows["rejected"].items():
        CONSOLE.print(f"[yellow]note[/]  {count} events of the source are left out: {reason}", soft_wrap=True)
    titles = ("slice", "metric", *(about["releases"][side] for side in (CHAMPION, CHALLENGER)), "difference")
    table = Table(*titles, f"{about['confidence'] * 100:g}% interval", "p (Holm)", box=None, padding=(0, 2, 0, 0))
    for entry in sorted(about["differences"], key=lambda entry: list(about["metrics"][CHAMPION]).index(entry["slice"])):
        span = f"{signed(entry['low_both'])} to {signed(entry['high_both'])}"
        figures = (figure(entry[side]) for side in (CHAMPION, CHALLENGER))
        table.add_row(entry["slice"], entry["metric"], *figures, signed(entry["delta"]), span, p_value(entry["p_holm"]))
    CONSOLE.print(table)
    CONSOLE.print(about["verdict"], soft_wrap=True)


def main() -> None:
    """Challenges as a program."""
    arguments = recipe_arguments("challenge", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        permit(recipe.ranker.kind)
        artifact = run(recipe)
    if arguments.json:
        print(json.dumps(artifact.about))
    else:
        show(artifact.about)


if __name__ == "__main__":
    main()
