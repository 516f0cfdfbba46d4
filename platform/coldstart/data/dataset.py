"""The dataset: the prepared, immutable result of reading items and events once."""

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
from coldstart.config.recipe import ContentSwitch
from coldstart.data.content import Content
from coldstart.data.contract import DIGESTS, FEATURES, ITEMS_PER_PART, ITEMS_PER_ROW_GROUP, WITHHELD
from coldstart.data.features import NO_FEATURES, Coded, FeatureSchema, TargetFeatures
from coldstart.data.sequences import Sequences


class Dataset:
    """A dataset directory that was opened; tables are read when first asked for.

    Attributes:
        artifact: Its manifest: fingerprint, and `about` with counts per split, time cuts and text statistics.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> "Dataset":
        """Opens a dataset directory.

        Args:
            path: The directory.
            verify: Whether to compare every file with its digest.

        Raises:
            UserError: not a dataset, or damaged.
        """
        return cls(read_artifact(path, "dataset", verify=verify))

    @property
    def num_items(self) -> int:
        """Items in the catalogue: indices run from 1 to this number."""
        return int(self.artifact.about["items"])

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The items in order of index: row `i` is item `i + 1`. `columns` limits what is read."""
        return _read_parts(self.artifact.path / "items", columns)

    def contents(self, item_idx: NDArray[np.int64]) -> list[Content]:
        """Content of the named items, in that order."""
        return read_contents(self.artifact.path, item_idx)

    def texts(self) -> Iterator[str]:
        """All titles and texts."""
        table = self.items(["title", "text"])
        for column in table.columns:
            yield from (value for value in column.to_pylist() if value)

    @cached_property
    def train_counts(self) -> NDArray[np.int32]:
        """[N + 1] train events of each item; index 0 (OOV) has none. Cold items are those with 0."""
        counts = self.items(["num_train_events"])["num_train_events"]
        return np.concatenate([np.zeros(1, np.int32), np.asarray(counts, np.int32)])

    def content_groups(self, content: ContentSwitch) -> NDArray[np.int64]:
        """[N + 1] a number that items share if all they show is the same, so that reading them cannot tell them apart.

        Args:
            content: The modalities that are read.

        Raises:
            UserError: the dataset was prepared by an earlier release.
        """
        shown = [name for name, on in zip(DIGESTS, (content.text, content.picture), strict=True) if on]
        there = pq.read_schema(part_path(self.artifact.path / "items", 0)).names
        missing = [name for name in shown if name not in there]
        if missing:
            raise UserError(f"{self.artifact.path} has no {missing[0]} of its items; prepare it again")
        table = self.items(shown)
        digests = np.stack([np.asarray(table[name]) for name in shown], axis=1)
        groups = np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1) + 1
        return np.concatenate([np.zeros(1, np.int64), groups])

    @cached_property
    def item_index(self) -> dict[str, int]:
        """item_id -> item_idx."""
        ids = self.items(["item_id"])["item_id"].to_pylist()
        return {item_id: index for index, item_id in enumerate(ids, start=1)}

    @cached_property
    def features(self) -> FeatureSchema:
        """What is known of items, users and contexts beside ids and content."""
        return read_features(self.artifact.path)

    @cached_property
    def item_features(self) -> Coded:
        """[N + 1] encoded features of the items by index; row 0 is unknown."""
        return read_item_features(self.artifact.path, self.features)

    @cached_property
    def sequences(self) -> Sequences:
        """Events of all users."""
        return read_sequences(self.artifact.path, self.features, self.item_features)

    @property
    def withholds(self) -> bool:
        """Whether there are events that training must not see."""
        return (self.artifact.path / WITHHELD).is_dir()

    @cached_property
    def withheld(self) -> Sequences:
        """Events of all users, with those on held-out items that training must not see (split UNUSED) in them.

        Raises:
            UserError: the dataset was not split by items, or was prepared by an earlier release.
        """
        if not self.withholds:
            raise UserError(
                f"{self.artifact.path} withholds no events; set data.split.kind: item_holdout and prepare it again"
            )
        return read_sequences(self.artifact.path, self.features, self.item_features, folder=WITHHELD)


def read_item_features(path: Path, schema: FeatureSchema) -> Coded:
    """[N + 1] encoded features of the items of a dataset directory, by index; row 0 is unknown."""
    return schema.stack_items(
        _read_parts(path / "items", ["item_idx", *(one.key for one in schema.of("item").features)])
    )


def read_sequences(
    path: Path, schema: FeatureSchema, item: Coded, *, folder: str = "sequences", most_events: int | None = None
) -> Sequences:
    """Sequences of a dataset directory, with their features.

    Args:
        path: The directory.
        schema: Of its features.
        item: Features of its items.
        folder: Which of its sequences.
        most_events: Stop after the part that reaches so many events; None reads all.
    """
    parts: list[pa.Table] = []
    events = 0
    for file in sorted((path / folder).glob("part-*.parquet")):
        if most_events is None or events < most_events:
            parts.append(pq.read_table(file))
            events += pc.sum(pc.list_value_length(parts[-1]["item_idx"])).as_py()
    table = pa.concat_tables(parts)
    users, contexts = schema.of("user"), schema.of("context")
    by_user = {feature.key: np.asarray(table[feature.key]) for feature in users.features}
    by_event = {feature.key: np.asarray(table[feature.key].combine_chunks().flatten()) for feature in contexts.features}
    plain = Sequences.from_table(table.drop_columns([*by_user, *by_event]))
    if not schema:
        return plain
    user, context = users.stack(by_user, len(table)), contexts.stack(by_event, len(plain.label))
    return replace(plain, features=TargetFeatures(schema, item, user, context))


def read_features(path: Path) -> FeatureSchema:
    """The schema in a directory of a dataset or a ranker; no features where there is none."""
    file = path / FEATURES
    return FeatureSchema.model_validate_json(file.read_text()) if file.is_file() else NO_FEATURES


def read_contents(dataset: Path, item_idx: NDArray[np.int64]) -> list[Content]:
    """Content of the named items of a dataset directory, in that order; reads only the row groups that hold them.

    Args:
        dataset: The directory.
        item_idx: [n] item indices, 1..N, in any order and with repeats.
    """
    unique, where = np.unique(np.asarray(item_idx, np.int64), return_inverse=True)
    part, within = np.divmod(unique - 1, ITEMS_PER_PART)
    found: list[Content] = []
    for number in np.unique(part):
        rows = within[part == number]
        groups = np.unique(rows // ITEMS_PER_ROW_GROUP)
        with pq.ParquetFile(part_path(dataset / "items", int(number))) as file:
            table = file.read_row_groups(groups.tolist(), columns=["title", "text", "picture"])
        position = (
            np.searchsorted(groups, rows // ITEMS_PER_ROW_GROUP) * ITEMS_PER_ROW_GROUP + rows % ITEMS_PER_ROW_GROUP
        )
        found += [Content(**row) for row in table.take(position).to_pylist()]
    return [found[index] for index in where]


def part_path(directory: Path, number: int) -> Path:
    """File of one part."""
    return directory / f"part-{number:05d}.parquet"


def _read_parts(directory: Path, columns: Sequence[str] | None = None) -> pa.Table:
    files = sorted(directory.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(file, columns=list(columns) if columns else None) for file in files])
