"""Builds the events on which several releases are compared, with one item index for all of them.

All events are kept in memory; for a long log, point `data.files.events` at its newest part. Legend: `N` items.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.config import Recipe, UserError
from coldstart.data.cleaning import clean_events
from coldstart.data.dataset import Dataset
from coldstart.data.features import EncodedFeatures, FeatureSchema, TargetFeatures, features_of
from coldstart.data.readers import check_files, clean_file_split, file_splits
from coldstart.data.schema import EXCLUDED, TEST, TRAIN
from coldstart.data.sequences import Sequences, order_events
from coldstart.methods.available import find_method
from coldstart.methods.base import SCORER
from coldstart.rankers.storage import read_item_index
from coldstart.registry import Registry, Release


@dataclass(frozen=True)
class Replay:
    """Events on which releases are compared.

    Attributes:
        sequences: The events of the run's dataset and the later ones of its source. The split TEST is scored; the rest
            is history.
        item_ids: [N] item ids; index 1 is the first. The dataset's items come first.
        train_events: [N + 1] train events of each item in the run's dataset.
        published_at: [N + 1] Unix seconds: `created_at` of the catalog, else the item's first event.
        newer_than: Unix seconds of the last event in any release's dataset. `None` if no event is newer; then test rows
            of the run's dataset are scored.
        rejected: Reason -> number of invalid events in the source.
        fingerprint: Fingerprint of the events.
    """

    sequences: Sequences
    item_ids: list[str]
    train_events: NDArray[np.int64]
    published_at: NDArray[np.float64]
    newer_than: int | None
    rejected: dict[str, int]
    fingerprint: str

    @property
    def targets(self) -> NDArray[np.bool_]:
        """[events] mask of the events that are scored."""
        return np.asarray(self.sequences.split == TEST)


def build_replay(recipe: Recipe, dataset: Dataset, releases: Sequence[Release], registry: Registry) -> Replay:
    """Builds the replay of a run: its events that are later than all events in the datasets of the releases.

    If there are none, the test rows of the run's dataset that no release was trained on.

    Raises:
        UserError: no event is left, the last event of a release's dataset is unknown, or the source cannot be read.
    """
    facts = {release.name: _dataset_facts(dataset, release, registry) for release in releases}
    item_ids = list(dataset.item_index)
    known = [read_item_index(find_method(release.method).catalog_dir(release.paths)) for release in releases]
    item_ids += sorted({item for index in known for item in index}.difference(item_ids))
    past = dataset.sequences
    later, rejected = _read_later_events(recipe, dataset.features, item_ids, after=int(past.timestamp.max()))
    sequences = _append_events(past, later, dataset.features) if len(later) else past
    end = max(int(one["last_event_at"]) for one in facts.values())
    fresh = sequences.timestamp > end
    if fresh.any():
        split = np.where(fresh, TEST, TRAIN).astype(np.int8)
    else:
        # Without the later events, so that rows keep the positions that the dataset's evaluations refer to.
        sequences = past
        split = np.where(_held_out(dataset, releases, facts), TEST, np.where(past.split == TEST, EXCLUDED, past.split))
    if not (split == TEST).any():
        raise UserError(
            "every event was used to train a release, so none is left to compare them on; point data.files.events at "
            "newer events, or raise "
            "data.split.test and prepare the dataset again"
        )
    counts = np.zeros(len(item_ids) + 1, np.int64)
    counts[: dataset.num_items + 1] = dataset.train_counts
    return Replay(
        replace(sequences, split=split.astype(np.int8)),
        item_ids,
        counts,
        _publication_times(dataset, sequences, len(item_ids)),
        end if fresh.any() else None,
        rejected,
        _fingerprint(sequences, end, item_ids) if fresh.any() else dataset.artifact.fingerprint,
    )


def _dataset_facts(dataset: Dataset, release: Release, registry: Registry) -> dict[str, Any]:
    """Metadata of the dataset that a release was trained on; includes `last_event_at`."""
    if release.dataset == dataset.artifact.fingerprint:
        return {**dataset.artifact.metadata, "last_event_at": int(dataset.sequences.timestamp.max())}
    facts = registry.dataset_summary(release.versions[SCORER])
    if facts.get("last_event_at") is None:
        raise UserError(
            f"the registry does not contain the time of the last event in dataset {release.dataset[:12]}, which "
            f"{release.name} was trained on, so it is unknown which events are new to it; compare it in the run "
            "it comes from, or train and register it again"
        )
    return facts


def _held_out(dataset: Dataset, releases: Sequence[Release], facts: dict[str, dict[str, Any]]) -> NDArray[np.bool_]:
    """[events] mask of the rows that are test rows in the run's dataset and in that of each release."""
    held: NDArray[np.bool_] = dataset.sequences.split == TEST
    if all(release.dataset == dataset.artifact.fingerprint for release in releases):
        return held
    for release in releases:
        cuts = facts[release.name].get("time_cuts")
        if cuts is None:
            raise UserError(
                f"no event is later than the dataset of {release.name}, and that dataset was not split by time, so it "
                "is unknown which events it was trained on; point data.files.events at newer events"
            )
        held = held & (dataset.sequences.timestamp >= cuts["test_from"])
    return held


def _read_later_events(
    recipe: Recipe, schema: FeatureSchema, item_ids: list[str], *, after: int
) -> tuple[pa.Table, dict[str, int]]:
    """Valid events of the recipe's source after a time, and the number of invalid ones by reason."""
    if recipe.data.source == "generated":
        return pa.table({}), {}
    files = recipe.data.files
    tables = check_files(files)
    contexts = features_of(tables.features(files.columns), "context")
    missing = {one.key for one in schema.of("context").features}.difference(one.key for one in contexts)
    if missing:
        raise UserError(
            f"data.files.columns.context_features lacks {', '.join(sorted(missing))}, which the dataset has; use the "
            "columns of the recipe it was prepared with"
        )
    known_ids = pa.array(item_ids, pa.string())
    clean = partial(
        clean_events,
        columns=files.columns,
        known_items=known_ids,
        positive_threshold=files.positive_threshold,
        oracle=False,
        features=contexts,
    )
    table, valid, rejected = tables.events, [], dict[str, int]()
    for file_split in file_splits(table):
        for rows in clean_file_split(file_split, table.columns, clean, table.wanted, field=table.name):
            for reason, count in zip(*_count_reasons(rows["reason"]), strict=True):
                rejected[reason] = rejected.get(reason, 0) + count
            valid.append(rows.filter(pc.field("reason").is_null() & (pc.field("timestamp") > after)))
    return pa.concat_tables(valid), rejected


def _count_reasons(reasons: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counts = pc.value_counts(reasons.drop_null())
    return counts.field("values").to_pylist(), counts.field("counts").to_pylist()


def _append_events(past: Sequences, later: pa.Table, schema: FeatureSchema) -> Sequences:
    """Appends later events to the sequence of each user; new users come last."""
    index = {user_id: number for number, user_id in enumerate(past.user_id)}
    for user_id in pc.unique(later["user_id"]).sort().to_pylist():
        index.setdefault(user_id, len(index))
    owner = np.array([index[user_id] for user_id in later["user_id"].to_pylist()], np.int64)
    later, _ = order_events(later.append_column("user_idx", pa.array(owner)))
    user = np.concatenate([np.repeat(np.arange(len(past.user_id)), np.diff(past.offsets)), later["user_idx"]])
    order = np.argsort(user, kind="stable")
    features = past.features

    def joined(old: NDArray[Any], name: str) -> NDArray[Any]:
        return np.concatenate([old, np.asarray(later[name], old.dtype)])[order]

    if schema:
        contexts = schema.of("context")
        new = contexts.stack(
            contexts.encode({one.key: later[one.key].combine_chunks() for one in contexts.features}), len(later)
        )
        both = [np.concatenate(pair)[order] for pair in zip(_arrays(features.context), _arrays(new), strict=True)]
        unknown = schema.of("user").unknown(len(index) - len(past.user_id))
        users = [np.concatenate(pair) for pair in zip(_arrays(features.user), _arrays(unknown), strict=True)]
        features = TargetFeatures(schema, features.item, EncodedFeatures(*users), EncodedFeatures(*both))
    return Sequences(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(index)))]),
        item_idx=joined(past.item_idx, "item_idx"),
        label=joined(past.label, "label"),
        timestamp=joined(past.timestamp, "timestamp"),
        split=np.full(len(order), TRAIN, np.int8),
        user_id=list(index),
        features=features,
    )


def _arrays(encoded: EncodedFeatures) -> tuple[NDArray[Any], NDArray[Any]]:
    return encoded.categorical, encoded.numeric


def _publication_times(dataset: Dataset, sequences: Sequences, items: int) -> NDArray[np.float64]:
    first = np.full(items + 1, np.inf)
    np.minimum.at(first, sequences.item_idx, sequences.timestamp)
    created = np.asarray(dataset.items(["created_at"])["created_at"].to_numpy(), np.float64)
    has_date = np.flatnonzero(~np.isnan(created))
    first[has_date + 1] = created[has_date]
    return first


def _fingerprint(sequences: Sequences, end: int, item_ids: list[str]) -> str:
    """Hash of everything that the positions of events and their histories depend on."""
    digest = hashlib.sha256(repr((end, sequences.user_id, item_ids)).encode())
    for name in ("offsets", "item_idx", "label", "timestamp"):
        digest.update(np.ascontiguousarray(getattr(sequences, name)).tobytes())
    return digest.hexdigest()
