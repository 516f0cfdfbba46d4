"""Replay: the events that several releases are asked about, in an item space of its own.

Held in one process; of a long log, point `data.files.events` at its newest part. Legend: `N` items.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.config import Recipe, UserError
from coldstart.data.cleaning import clean_events
from coldstart.data.contract import TEST, TRAIN, UNUSED
from coldstart.data.dataset import Dataset
from coldstart.data.features import Coded, FeatureSchema, TargetFeatures
from coldstart.data.readers import check_files, pieces, read_piece, wanted_columns
from coldstart.data.sequences import Sequences, order_events
from coldstart.rankers.storage import vocabulary
from coldstart.registry import Registry, Release


@dataclass(frozen=True)
class Replay:
    """Events, some of which are asked about.

    Attributes:
        sequences: The run's dataset and what its source has of later events; TEST is asked about, the rest is history.
        item_ids: [N] whose indices the events carry, from 1 on: the dataset's items first.
        train_events: [N + 1] of the run's dataset.
        published: [N + 1] Unix seconds: the catalogue's word if it has one, else the item's first event.
        after: Unix seconds of the last event that a release was made from; `None` if none is later than that, and the
            dataset's test rows are asked about.
        rejected: Reason -> events of the source that cannot be used.
        fingerprint: Of the rows.
    """

    sequences: Sequences
    item_ids: list[str]
    train_events: NDArray[np.int64]
    published: NDArray[np.float64]
    after: int | None
    rejected: dict[str, int]
    fingerprint: str

    @property
    def asked(self) -> NDArray[np.bool_]:
        """[events] which are asked about."""
        return np.asarray(self.sequences.split == TEST)


def replay(recipe: Recipe, dataset: Dataset, releases: Sequence[Release], registry: Registry) -> Replay:
    """The events of a run that are later than all that releases were trained and evaluated on.

    Where there are none, it is the test rows of the run's dataset that no release was trained on.

    Raises:
        UserError: nothing is left, a release does not tell how far its dataset reaches, or the source cannot be read.
    """
    facts = {release.name: _facts(dataset, release, registry) for release in releases}
    item_ids = list(dataset.item_index)
    known = [vocabulary(release.ranker.path) for release in releases]
    item_ids += sorted({item for index in known for item in index}.difference(item_ids))
    past = dataset.sequences
    later, rejected = _later(recipe, dataset.features, item_ids, after=int(past.timestamp.max()))
    whole = _extended(past, later, dataset.features) if len(later) else past
    end = max(int(about["last_event_at"]) for about in facts.values())
    fresh = whole.timestamp > end
    if fresh.any():
        split = np.where(fresh, TEST, TRAIN).astype(np.int8)
    else:
        # Of the dataset alone, so that rows keep the positions by which its evaluations name them.
        whole = past
        split = np.where(_held_out(dataset, releases, facts), TEST, np.where(past.split == TEST, UNUSED, past.split))
    if not (split == TEST).any():
        raise UserError(
            "there are no rows that no release was trained on; point data.files.events at newer events, or raise "
            "data.split.test and prepare the dataset again"
        )
    counts = np.zeros(len(item_ids) + 1, np.int64)
    counts[: dataset.num_items + 1] = dataset.train_counts
    return Replay(
        replace(whole, split=split.astype(np.int8)),
        item_ids,
        counts,
        _published(dataset, whole, len(item_ids)),
        end if fresh.any() else None,
        rejected,
        _fingerprint(whole, end, item_ids) if fresh.any() else dataset.artifact.fingerprint,
    )


def _facts(dataset: Dataset, release: Release, registry: Registry) -> dict[str, Any]:
    """Facts of the dataset that a release was made from, `last_event_at` among them."""
    if release.dataset == dataset.artifact.fingerprint:
        return {**dataset.artifact.about, "last_event_at": int(dataset.sequences.timestamp.max())}
    facts = registry.dataset_facts(release.versions["adaptor"])
    if facts.get("last_event_at") is None:
        raise UserError(
            f"the registry does not tell how far the events of dataset {release.dataset[:12]} reach, which "
            f"{release.name} was made from, so no event is known to be new to it; replay it in the run it comes from, "
            "or train and register it anew"
        )
    return facts


def _held_out(dataset: Dataset, releases: Sequence[Release], facts: dict[str, dict[str, Any]]) -> NDArray[np.bool_]:
    """[events] test rows of the run's dataset that are test rows to every release."""
    held: NDArray[np.bool_] = dataset.sequences.split == TEST
    if all(release.dataset == dataset.artifact.fingerprint for release in releases):
        return held
    for release in releases:
        cuts = facts[release.name].get("time_cuts")
        if cuts is None:
            raise UserError(
                f"no event is later than the dataset of {release.name}, and that was not split by time, so what it "
                "was trained on cannot be told from here; point data.files.events at newer events"
            )
        held = held & (dataset.sequences.timestamp >= cuts["test_from"])
    return held


def _later(
    recipe: Recipe, schema: FeatureSchema, item_ids: list[str], *, after: int
) -> tuple[pa.Table, dict[str, int]]:
    """Usable events of the recipe's source after a moment, and how many cannot be used, by reason."""
    if recipe.data.source == "generated":
        return pa.table({}), {}
    files = recipe.data.files
    tables = check_files(files)
    contexts = [feature for feature in tables.features(files.columns) if feature.owner == "context"]
    lacking = {one.key for one in schema.of("context").features}.difference(one.key for one in contexts)
    if lacking:
        raise UserError(
            f"data.files.columns.context_features lacks {', '.join(sorted(lacking))}, which the dataset has; name the "
            "columns as in the recipe it was prepared with"
        )
    known = pa.array(item_ids, pa.string())
    names = list(dict.fromkeys(column for _, column in wanted_columns(files.columns, "events")))
    found, rejected = [], dict[str, int]()
    for piece in pieces(tables.events):
        for chunk in read_piece(piece, names, field="events"):
            rows = clean_events(
                chunk, files.columns, known, label_at_least=files.label_at_least, oracle=False, features=contexts
            )
            for reason, count in zip(*_counted(rows["reason"]), strict=True):
                rejected[reason] = rejected.get(reason, 0) + count
            found.append(rows.filter(pc.field("reason").is_null() & (pc.field("timestamp") > after)))
    return pa.concat_tables(found), rejected


def _counted(reasons: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counts = pc.value_counts(reasons.drop_null())
    return counts.field("values").to_pylist(), counts.field("counts").to_pylist()


def _extended(past: Sequences, later: pa.Table, schema: FeatureSchema) -> Sequences:
    """Sequences with later events behind those of each user; new users come last."""
    index = {user_id: number for number, user_id in enumerate(past.user_id)}
    for user_id in pc.unique(later["user_id"]).sort().to_pylist():
        index.setdefault(user_id, len(index))
    owner = np.array([index[user_id] for user_id in later["user_id"].to_pylist()], np.int64)
    later, _ = order_events(later.append_column("user_idx", pa.array(owner)))
    user = np.concatenate([np.repeat(np.arange(len(past.user_id)), np.diff(past.offsets)), later["user_idx"]])
    order = np.argsort(user, kind="stable")
    known = past.features

    def joined(old: NDArray[Any], name: str) -> NDArray[Any]:
        return np.concatenate([old, np.asarray(later[name], old.dtype)])[order]

    features = known
    if schema:
        contexts = schema.of("context")
        new = contexts.stack(
            contexts.encode({one.key: later[one.key].combine_chunks() for one in contexts.features}), len(later)
        )
        both = [np.concatenate(pair)[order] for pair in zip(_parts(known.context), _parts(new), strict=True)]
        unknown = schema.of("user").unknown(len(index) - len(past.user_id))
        users = [np.concatenate(pair) for pair in zip(_parts(known.user), _parts(unknown), strict=True)]
        features = TargetFeatures(schema, known.item, Coded(*users), Coded(*both))
    return Sequences(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(index)))]),
        item_idx=joined(past.item_idx, "item_idx"),
        label=joined(past.label, "label"),
        timestamp=joined(past.timestamp, "timestamp"),
        split=np.full(len(order), TRAIN, np.int8),
        user_id=list(index),
        features=features,
    )


def _parts(coded: Coded) -> tuple[NDArray[Any], NDArray[Any]]:
    return coded.categorical, coded.numeric


def _published(dataset: Dataset, sequences: Sequences, items: int) -> NDArray[np.float64]:
    first = np.full(items + 1, np.inf)
    np.minimum.at(first, sequences.item_idx, sequences.timestamp)
    created = np.asarray(dataset.items(["created_at"])["created_at"].to_numpy(), np.float64)
    told = np.flatnonzero(~np.isnan(created))
    first[told + 1] = created[told]
    return first


def _fingerprint(sequences: Sequences, end: int, item_ids: list[str]) -> str:
    """Of everything that positions of events and their histories depend on."""
    total = hashlib.sha256(repr((end, sequences.user_id, item_ids)).encode())
    for name in ("offsets", "item_idx", "label", "timestamp"):
        total.update(np.ascontiguousarray(getattr(sequences, name)).tobytes())
    return total.hexdigest()
