"""The dataset: the prepared, immutable copy of items and events that every stage reads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coldstart.config.artifact import Artifact, read_artifact
from coldstart.config.errors import UserError
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.data.features import NO_FEATURES, EncodedFeatures, FeatureSchema, TargetFeatures
from coldstart.data.schema import DIGESTS, FEATURES, HELD_OUT, ITEMS_PER_PART, ITEMS_PER_ROW_GROUP, SEQUENCES
from coldstart.data.sequences import Sequences


class Dataset:
    """An open dataset directory; tables are read on first use.

    Attributes:
        artifact: The manifest: fingerprint, and `metadata` with counts per split, time cuts and text statistics.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> "Dataset":
        """Opens a dataset directory.

        Args:
            path: The directory.
            verify: Whether to compare every file with its sha256.

        Raises:
            UserError: the directory is not a dataset, or a file is corrupt.
        """
        return cls(read_artifact(path, "dataset", verify=verify))

    @property
    def num_items(self) -> int:
        """Number of items in the catalog; item indices run from 1 to this number."""
        return int(self.artifact.metadata["items"])

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The items in order of index: row `i` is item `i + 1`. `columns` are the columns to read; None reads all."""
        return _read_parts(self.artifact.path / "items", columns)

    def item_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The same columns, one part of the items after the other."""
        for file in _part_files(self.artifact.path / "items"):
            yield pq.read_table(file, columns=list(columns))

    def contents(self, item_idx: NDArray[np.int64]) -> list[Content]:
        """Contents of items, in the order of `item_idx`."""
        return read_contents(self.artifact.path, item_idx)

    def texts(self) -> Iterator[str]:
        """All titles and texts."""
        table = self.items(["title", "text"])
        for column in table.columns:
            yield from (value for value in column.to_pylist() if value)

    @cached_property
    def train_counts(self) -> NDArray[np.int32]:
        """[N + 1] number of train events of each item; 0 for index 0 (OOV)."""
        counts = self.items(["num_train_events"])["num_train_events"]
        return np.concatenate([np.zeros(1, np.int32), np.asarray(counts, np.int32)])

    @property
    def cold(self) -> NDArray[np.bool_]:
        """[N + 1] whether an item is cold: it has no train event. Index 0 (OOV) is cold."""
        cold: NDArray[np.bool_] = self.train_counts == 0
        return cold

    @property
    def cold_items(self) -> NDArray[np.int64]:
        """Ascending indices of the cold items of the catalog."""
        return np.flatnonzero(self.cold[1:]) + 1

    def mature(self, trained: NDArray[np.bool_], min_events: int) -> NDArray[np.bool_]:
        """[N + 1] whether an item is mature: its ID embedding can be an alignment target.

        Args:
            trained: [N + 1] items with a trained ID embedding.
            min_events: Least train events, the recipe key `mature_events`.
        """
        return (self.train_counts >= min_events) & trained

    def content_groups(self, content: Modalities) -> NDArray[np.int64]:
        """[N + 1] group of each item; items with identical content in the used modalities share a group.

        Args:
            content: The modalities in use.

        Raises:
            UserError: an earlier version of coldstart prepared the dataset.
        """
        used = [name for name, on in zip(DIGESTS, (content.use_text, content.use_image), strict=True) if on]
        names = pq.read_schema(part_path(self.artifact.path / "items", 0)).names
        missing = [name for name in used if name not in names]
        if missing:
            raise UserError(f"{self.artifact.path} has no column {missing[0]} in its items; run prepare again")
        table = self.items(used)
        digests = np.stack([np.asarray(table[name]) for name in used], axis=1)
        groups = np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1) + 1
        return np.concatenate([np.zeros(1, np.int64), groups])

    @cached_property
    def item_index(self) -> dict[str, int]:
        """item_id -> item_idx."""
        ids = self.items(["item_id"])["item_id"].to_pylist()
        return {item_id: index for index, item_id in enumerate(ids, start=1)}

    @cached_property
    def features(self) -> FeatureSchema:
        """Schema of the features of items, users and contexts."""
        return read_features(self.artifact.path)

    @cached_property
    def item_features(self) -> EncodedFeatures:
        """[N + 1] encoded features of the items by index; row 0 is unknown."""
        return read_item_features(self.artifact.path, self.features)

    @cached_property
    def sequences(self) -> Sequences:
        """Events of all users."""
        return read_sequences(self.artifact.path, self.features, self.item_features)

    def sequence_parts(self) -> Iterator[Sequences]:
        """Events of all users, one part of the users after the other, without features and true probabilities."""
        for file in _part_files(self.artifact.path / "sequences"):
            yield Sequences.from_table(pq.read_table(file, columns=SEQUENCES.names))

    @property
    def has_held_out_events(self) -> bool:
        """Whether the dataset has events that training must not see (an item holdout)."""
        return (self.artifact.path / HELD_OUT).is_dir()

    @cached_property
    def held_out(self) -> Sequences:
        """Events of all users, including the events on held-out items that training must not see (split EXCLUDED).

        Raises:
            UserError: the dataset has no item holdout.
        """
        if not self.has_held_out_events:
            raise UserError(
                f"{self.artifact.path} has no held-out events; set data.split.kind: item_holdout and run prepare again"
            )
        return read_sequences(self.artifact.path, self.features, self.item_features, folder=HELD_OUT)


def read_item_features(path: Path, schema: FeatureSchema) -> EncodedFeatures:
    """[N + 1] encoded features of the items of a dataset directory, by index; row 0 is unknown."""
    return schema.stack_items(
        _read_parts(path / "items", ["item_idx", *(one.key for one in schema.of("item").features)])
    )


def read_sequences(
    path: Path,
    schema: FeatureSchema,
    item: EncodedFeatures,
    *,
    folder: str = "sequences",
    max_events: int | None = None,
) -> Sequences:
    """Reads the sequences of a dataset directory, with their features.

    Args:
        path: The directory.
        schema: Schema of the features.
        item: Encoded features of the items.
        folder: Subdirectory with the sequences.
        max_events: Stop after the part that reaches this number of events; None reads all.
    """
    parts: list[pa.Table] = []
    events = 0
    for file in _part_files(path / folder):
        if max_events is None or events < max_events:
            parts.append(pq.read_table(file))
            events += pc.sum(pc.list_value_length(parts[-1]["item_idx"])).as_py()
    table = pa.concat_tables(parts)
    users, contexts = schema.of("user"), schema.of("context")
    by_user = {feature.key: np.asarray(table[feature.key]) for feature in users.features}
    by_event = {feature.key: np.asarray(table[feature.key].combine_chunks().flatten()) for feature in contexts.features}
    sequences = Sequences.from_table(table.drop_columns([*by_user, *by_event]))
    if not schema:
        return sequences
    user, context = users.stack(by_user, len(table)), contexts.stack(by_event, len(sequences.label))
    return replace(sequences, features=TargetFeatures(schema, item, user, context))


def read_features(path: Path) -> FeatureSchema:
    """The feature schema in a directory of a dataset or a ranker; an empty one if the directory has none."""
    file = path / FEATURES
    return FeatureSchema.model_validate_json(file.read_text()) if file.is_file() else NO_FEATURES


def read_contents(dataset: Path, item_idx: NDArray[np.int64]) -> list[Content]:
    """Contents of items of a dataset directory, in the order of `item_idx`; reads only the row groups it needs.

    Args:
        dataset: The directory.
        item_idx: [n] item indices, 1..N, in any order; repeats are allowed.
    """
    unique, inverse = np.unique(np.asarray(item_idx, np.int64), return_inverse=True)
    part, within = np.divmod(unique - 1, ITEMS_PER_PART)
    contents: list[Content] = []
    for number in np.unique(part):
        rows = within[part == number]
        groups = np.unique(rows // ITEMS_PER_ROW_GROUP)
        with pq.ParquetFile(part_path(dataset / "items", int(number))) as file:
            table = file.read_row_groups(groups.tolist(), columns=["title", "text", "image"])
        position = (
            np.searchsorted(groups, rows // ITEMS_PER_ROW_GROUP) * ITEMS_PER_ROW_GROUP + rows % ITEMS_PER_ROW_GROUP
        )
        contents += [Content(**row) for row in table.take(position).to_pylist()]
    return [contents[index] for index in inverse]


def part_path(directory: Path, number: int) -> Path:
    """Path of the file with one part."""
    return directory / f"part-{number:05d}.parquet"


def _read_parts(directory: Path, columns: Sequence[str] | None = None) -> pa.Table:
    names = list(columns) if columns else None
    return pa.concat_tables([pq.read_table(file, columns=names) for file in _part_files(directory)])


def _part_files(directory: Path) -> list[Path]:
    """The files of `part_path`, by number."""
    return sorted(directory.glob("part-*.parquet"))
