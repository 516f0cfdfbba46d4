"""Features of items, users and contexts: how raw values become codes and numbers, and those of a target as arrays.

Everything that is learnt here (vocabularies, means, scales) is learnt from train events, so nothing of a later time
reaches training. A value that train does not show, or that is missing, has code 0. Legend: `C` categorical features,
`N` numeric features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import PositiveFloat

from coldstart.config.errors import UserError
from coldstart.config.section import Section
from coldstart.data.columns import numbers, texts

Owner = Literal["item", "user", "context"]
Kind = Literal["categorical", "numeric"]
Value = str | int | float | bool | None
OWNERS: tuple[Owner, ...] = get_args(Owner)
"""In the order in which their features stand in a batch."""

_LARGEST = 8.0
"""Standard deviations at which a number is clipped, so that one absurd value cannot blow up a score."""


@dataclass(frozen=True)
class Coded:
    """Features ready for a model.

    Attributes:
        categorical: [..., C] integer codes, 0 for unknown or missing.
        numeric: [..., N] float32, standardised; 0 where missing.
    """

    categorical: NDArray[Any]
    numeric: NDArray[np.float32]


class Feature(Section):
    """A column of the user's that describes items, users or contexts."""

    owner: Owner
    name: str

    @property
    def key(self) -> str:
        """Its name in a dataset."""
        return f"{self.owner}.{self.name}"


class Categorical(Feature):
    """A feature whose values are names: code `i + 1` stands for `values[i]`."""

    values: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        """Number of codes, 0 (unknown) included."""
        return len(self.values) + 1

    @cached_property
    def codes(self) -> dict[str, int]:
        """Value -> code."""
        return {value: code for code, value in enumerate(self.values, start=1)}

    def code(self, column: pa.Array) -> NDArray[np.int32]:
        """Codes [n] of a column of raw values."""
        if len(column) == 1:
            return np.array([self.codes.get(texts(column)[0].as_py(), 0)], np.int32)
        found = pc.index_in(texts(column), value_set=pa.array(self.values, pa.string()))
        return np.asarray(pc.fill_null(found, -1)) + np.int32(1)


class Numeric(Feature):
    """A feature whose values are numbers, standardised by mean and scale."""

    mean: float
    scale: PositiveFloat

    def standardise(self, column: pa.Array) -> NDArray[np.float32]:
        """Standardised values [n] of a column of raw values; 0, the mean, where there is no finite number."""
        values = (numbers(column) - self.mean) / self.scale
        clipped = np.clip(np.where(np.isfinite(values), values, 0), -_LARGEST, _LARGEST)
        return clipped.astype(np.float32)


class FeatureColumn(Feature):
    """A feature as the recipe declares it, before anything is learnt."""

    kind: Kind

    def typed(self, table: pa.Table) -> pa.Array:
        """The column of the user's `table` as strings (null: missing) or float64 (NaN: missing)."""
        return texts(table[self.name]) if self.kind == "categorical" else pa.array(numbers(table[self.name]))

    def learn(self, column: pa.Array) -> Categorical | Numeric:
        """The feature as train shows it.

        Args:
            column: [n] typed train values, in any order and with repeats.

        Raises:
            UserError: train has no value at all.
        """
        # In order, so that codes and sums do not depend on which task was first.
        if self.kind == "categorical":
            names = sorted(column.drop_null().unique().to_pylist())
            if names:
                return Categorical(owner=self.owner, name=self.name, values=tuple(names))
        else:
            values = np.sort(numbers(column))
            values = values[np.isfinite(values)]
            if len(values):
                return Numeric(owner=self.owner, name=self.name, mean=values.mean(), scale=values.std() or 1.0)
        raise UserError(
            f"data.files.columns.{self.owner}_features: '{self.name}' has no {self.kind} value in the train part; "
            "take it out, or give its kind in data.files.columns.feature_kinds"
        )


class FeatureSchema(Section):
    """The features of a dataset and of the rankers trained on it, with all that is needed to encode a raw value.

    Both lists hold features of items first, then of users, then of contexts.
    """

    categorical: tuple[Categorical, ...] = ()
    numeric: tuple[Numeric, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.categorical or self.numeric)

    def __add__(self, other: "FeatureSchema") -> "FeatureSchema":
        return FeatureSchema(
            categorical=self.categorical + other.categorical,
            numeric=self.numeric + other.numeric,
        )

    @classmethod
    def learn(cls, declared: Mapping[FeatureColumn, pa.Array]) -> "FeatureSchema":
        """The schema of one owner's features.

        Args:
            declared: Column -> its typed values in train.

        Raises:
            UserError: train has no value of a feature.
        """
        learnt = [column.learn(values) for column, values in declared.items()]
        return cls(
            categorical=tuple(one for one in learnt if isinstance(one, Categorical)),
            numeric=tuple(one for one in learnt if isinstance(one, Numeric)),
        )

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each categorical feature."""
        return tuple(feature.cardinality for feature in self.categorical)

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features, the categorical ones first."""
        return (*self.categorical, *self.numeric)

    def of(self, owner: Owner) -> "FeatureSchema":
        """The features that an item, a user or a context has."""
        return FeatureSchema(
            categorical=tuple(feature for feature in self.categorical if feature.owner == owner),
            numeric=tuple(feature for feature in self.numeric if feature.owner == owner),
        )

    def encode(self, columns: Mapping[str, pa.Array]) -> dict[str, NDArray[Any]]:
        """Codes and standardised numbers [n] by key, from raw values [n] by key."""
        codes = {feature.key: feature.code(columns[feature.key]) for feature in self.categorical}
        return codes | {feature.key: feature.standardise(columns[feature.key]) for feature in self.numeric}

    def read(self, owner: Owner, given: Mapping[str, Value]) -> Coded:
        """Encoded features [1, C] and [1, N] of one item, user or context as a request names them.

        A feature that is not given, or null, is missing.

        Raises:
            UserError: a name that is no feature of the owner, or text where a number belongs.
        """
        mine = self.of(owner)
        allowed = ", ".join(feature.name for feature in mine.features) or "none"
        numeric = {feature.name for feature in mine.numeric}
        for name, value in given.items():
            if name not in {feature.name for feature in mine.features}:
                raise UserError(f"'{name}' is no {owner} feature of this ranker; allowed: {allowed}")
            if name in numeric and isinstance(value, str | bool):
                raise UserError(f"the {owner} feature '{name}' is a number, not {value!r}")
        columns = {feature.key: pa.array([given.get(feature.name)]) for feature in mine.features}
        return mine.stack(mine.encode(columns), 1)

    def unknown(self, *shape: int) -> Coded:
        """Features `[*shape, C]` and `[*shape, N]` of something of which nothing is known."""
        return Coded(
            np.zeros((*shape, len(self.categorical)), np.int64), np.zeros((*shape, len(self.numeric)), np.float32)
        )

    def stack(self, columns: Mapping[str, NDArray[Any]], count: int) -> Coded:
        """Encoded features of `count` things from encoded columns by key."""
        codes = [columns[feature.key] for feature in self.categorical]
        values = [columns[feature.key] for feature in self.numeric]
        return Coded(
            np.stack(codes, -1) if codes else np.zeros((count, 0), np.int32),
            np.stack(values, -1) if values else np.zeros((count, 0), np.float32),
        )

    def columns(self, coded: Coded) -> dict[str, NDArray[Any]]:
        """Encoded columns by key: what `stack` put together."""
        codes = {one.key: coded.categorical[..., place] for place, one in enumerate(self.categorical)}
        return codes | {one.key: coded.numeric[..., place] for place, one in enumerate(self.numeric)}

    def stack_items(self, table: pa.Table) -> Coded:
        """Item features [N + 1] by index from encoded columns whose row `i` is item `i + 1`; index 0 is unknown."""
        items = self.of("item")
        columns = {feature.key: np.pad(np.asarray(table[feature.key]), (1, 0)) for feature in items.features}
        return items.stack(columns, len(table) + 1)


@dataclass(frozen=True)
class TargetFeatures:
    """Encoded features of a whole dataset, looked up by target.

    Attributes:
        schema: What they are.
        item: By item index [N + 1]; row 0 is unknown.
        user: By user index [U].
        context: By position of the event [events].
    """

    schema: FeatureSchema
    item: Coded
    user: Coded
    context: Coded

    def at(self, user: NDArray[Any], item_idx: NDArray[Any], position: NDArray[Any]) -> Coded:
        """Features `[..., C]` and `[..., N]` of targets: user, item and event position, all `[...]`."""
        if not self.schema:
            return NO_FEATURES.unknown(*item_idx.shape)
        parts = ((self.item, item_idx), (self.user, user), (self.context, position))
        return Coded(
            np.concatenate([coded.categorical[index] for coded, index in parts], -1, dtype=np.int64),
            np.concatenate([coded.numeric[index] for coded, index in parts], -1),
        )


def of_candidates(schema: FeatureSchema, item: Coded, user: Coded, context: Coded) -> Coded:
    """Features [T, C] and [T, N] of candidates [T] of one user [1] at one moment [1]."""
    row = np.arange(len(item.categorical))
    return TargetFeatures(schema, item, user, context).at(0 * row, row, 0 * row)


NO_FEATURES = FeatureSchema()
"""Of a dataset that has none."""
_NONE = NO_FEATURES.unknown(0)
NO_TARGET_FEATURES = TargetFeatures(NO_FEATURES, _NONE, _NONE, _NONE)
