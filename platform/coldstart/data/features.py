"""Features of items, users and contexts: encoding of raw values, and lookup of the features of targets.

Vocabularies, means and scales are fitted on train events only, so nothing of a later time reaches training. A value
that is missing, or that does not occur in train, has code 0. Legend: `C` categorical features, `N` numeric features.
"""

from collections.abc import Iterable, Mapping
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
from coldstart.data.columns import as_floats, as_ids

Owner = Literal["item", "user", "context"]
Kind = Literal["categorical", "numeric"]
Value = str | int | float | bool | None
OWNERS: tuple[Owner, ...] = get_args(Owner)
"""In the order of their features in a batch."""

_LARGEST = 8.0
"""Numbers are clipped at this many standard deviations, so that one absurd value cannot dominate a score."""


@dataclass(frozen=True)
class EncodedFeatures:
    """Encoded features, as a model reads them.

    Attributes:
        categorical: [..., C] integer codes, 0 for unknown or missing.
        numeric: [..., N] float32, standardized; 0 where missing.
    """

    categorical: NDArray[Any]
    numeric: NDArray[np.float32]


class Feature(Section):
    """A column of a user's table that describes items, users or contexts."""

    owner: Owner
    name: str

    @property
    def key(self) -> str:
        """Its column name in a dataset."""
        return f"{self.owner}.{self.name}"


class Categorical(Feature):
    """A categorical feature; `values[i]` has code `i + 1`."""

    values: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        """Number of codes, including 0 (unknown)."""
        return len(self.values) + 1

    @cached_property
    def codes(self) -> dict[str, int]:
        """Value -> code."""
        return {value: code for code, value in enumerate(self.values, start=1)}

    def code(self, column: pa.Array) -> NDArray[np.int32]:
        """Codes [n] of a column of raw values."""
        if len(column) == 1:
            return np.array([self.codes.get(as_ids(column)[0].as_py(), 0)], np.int32)
        index = pc.index_in(as_ids(column), value_set=pa.array(self.values, pa.string()))
        return np.asarray(pc.fill_null(index, -1)) + np.int32(1)


class Numeric(Feature):
    """A numeric feature, standardized by mean and scale."""

    mean: float
    scale: PositiveFloat

    def standardize(self, column: pa.Array) -> NDArray[np.float32]:
        """Standardized values [n] of a column of raw values; 0 (the mean) where a value is not a finite number."""
        values = (as_floats(column) - self.mean) / self.scale
        clipped = np.clip(np.where(np.isfinite(values), values, 0), -_LARGEST, _LARGEST)
        return clipped.astype(np.float32)


class FeatureColumn(Feature):
    """A feature as the recipe declares it, before it is fitted."""

    kind: Kind

    def typed(self, table: pa.Table) -> pa.Array:
        """The column in a user's table, as strings (null if missing) or float64 (NaN if missing)."""
        return as_ids(table[self.name]) if self.kind == "categorical" else pa.array(as_floats(table[self.name]))

    def fit(self, column: pa.Array) -> Categorical | Numeric:
        """Fits the vocabulary, or mean and scale, on train values.

        Args:
            column: [n] typed train values, in any order.

        Raises:
            UserError: there is no value.
        """
        # Sorted, so that codes and sums do not depend on the order of the tasks.
        if self.kind == "categorical":
            names = sorted(column.drop_null().unique().to_pylist())
            if names:
                return Categorical(owner=self.owner, name=self.name, values=tuple(names))
        else:
            values = np.sort(as_floats(column))
            values = values[np.isfinite(values)]
            if len(values):
                return Numeric(owner=self.owner, name=self.name, mean=values.mean(), scale=values.std() or 1.0)
        raise UserError(
            f"data.files.columns.{self.owner}_features: '{self.name}' has no {self.kind} value in the train part; "
            "remove it, or set its kind in data.files.columns.feature_kinds"
        )


def features_of(declared: Iterable[FeatureColumn], owner: Owner) -> list[FeatureColumn]:
    """The declared features of one owner: item, user or context."""
    return [feature for feature in declared if feature.owner == owner]


class FeatureSchema(Section):
    """The features of a dataset and of the rankers trained on it, with what is needed to encode raw values.

    Both lists hold the features of items first, then of users, then of contexts.
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
    def fit(cls, declared: Mapping[FeatureColumn, pa.Array]) -> "FeatureSchema":
        """Fits a schema.

        Args:
            declared: Declared feature -> its typed values in train.

        Raises:
            UserError: a feature has no value in train.
        """
        fitted = [column.fit(values) for column, values in declared.items()]
        return cls(
            categorical=tuple(feature for feature in fitted if isinstance(feature, Categorical)),
            numeric=tuple(feature for feature in fitted if isinstance(feature, Numeric)),
        )

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each categorical feature."""
        return tuple(feature.cardinality for feature in self.categorical)

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features, categorical ones first."""
        return (*self.categorical, *self.numeric)

    def of(self, owner: Owner) -> "FeatureSchema":
        """The features of one owner: item, user or context."""
        return FeatureSchema(
            categorical=tuple(feature for feature in self.categorical if feature.owner == owner),
            numeric=tuple(feature for feature in self.numeric if feature.owner == owner),
        )

    def encode(self, columns: Mapping[str, pa.Array]) -> dict[str, NDArray[Any]]:
        """Codes and standardized numbers [n] by key, from raw values [n] by key."""
        codes = {feature.key: feature.code(columns[feature.key]) for feature in self.categorical}
        return codes | {feature.key: feature.standardize(columns[feature.key]) for feature in self.numeric}

    def encode_values(self, owner: Owner, values: Mapping[str, Value]) -> EncodedFeatures:
        """Encoded features [1, C] and [1, N] of one item, user or context, from the values in a request by name.

        A feature that is absent or null is missing.

        Raises:
            UserError: a name is not a feature of the owner, or the value of a numeric feature is not a number.
        """
        schema = self.of(owner)
        allowed = ", ".join(feature.name for feature in schema.features) or "none"
        numeric = {feature.name for feature in schema.numeric}
        for name, value in values.items():
            if name not in {feature.name for feature in schema.features}:
                raise UserError(f"'{name}' is not a feature of the {owner} in this ranker; allowed: {allowed}")
            if name in numeric and isinstance(value, str | bool):
                raise UserError(f"the {owner} feature '{name}' must be a number, not {value!r}")
        columns = {feature.key: pa.array([values.get(feature.name)]) for feature in schema.features}
        return schema.stack(schema.encode(columns), 1)

    def unknown(self, *shape: int) -> EncodedFeatures:
        """Features `[*shape, C]` and `[*shape, N]` that are all unknown."""
        return EncodedFeatures(
            np.zeros((*shape, len(self.categorical)), np.int64), np.zeros((*shape, len(self.numeric)), np.float32)
        )

    def stack(self, columns: Mapping[str, NDArray[Any]], count: int) -> EncodedFeatures:
        """Combines encoded columns [count] by key."""
        codes = [columns[feature.key] for feature in self.categorical]
        values = [columns[feature.key] for feature in self.numeric]
        return EncodedFeatures(
            np.stack(codes, -1) if codes else np.zeros((count, 0), np.int32),
            np.stack(values, -1) if values else np.zeros((count, 0), np.float32),
        )

    def columns(self, encoded: EncodedFeatures) -> dict[str, NDArray[Any]]:
        """Encoded columns by key; the inverse of `stack`."""
        codes = {feature.key: encoded.categorical[..., i] for i, feature in enumerate(self.categorical)}
        return codes | {feature.key: encoded.numeric[..., i] for i, feature in enumerate(self.numeric)}

    def stack_items(self, table: pa.Table) -> EncodedFeatures:
        """Item features [N + 1] by index, from encoded columns whose row `i` is item `i + 1`; index 0 is unknown."""
        items = self.of("item")
        columns = {feature.key: np.pad(np.asarray(table[feature.key]), (1, 0)) for feature in items.features}
        return items.stack(columns, len(table) + 1)


@dataclass(frozen=True)
class TargetFeatures:
    """Encoded features of a whole dataset, for lookup by target.

    Attributes:
        schema: Their schema.
        item: By item index [N + 1]; row 0 is unknown.
        user: By user index [U].
        context: By event position [events].
    """

    schema: FeatureSchema
    item: EncodedFeatures
    user: EncodedFeatures
    context: EncodedFeatures

    def lookup(self, user: NDArray[Any], item_idx: NDArray[Any], position: NDArray[Any]) -> EncodedFeatures:
        """Features `[..., C]` and `[..., N]` of targets: user, item and event position, all `[...]`."""
        if not self.schema:
            return NO_FEATURES.unknown(*item_idx.shape)
        parts = ((self.item, item_idx), (self.user, user), (self.context, position))
        return EncodedFeatures(
            np.concatenate([encoded.categorical[index] for encoded, index in parts], -1, dtype=np.int64),
            np.concatenate([encoded.numeric[index] for encoded, index in parts], -1),
        )


def candidate_features(
    schema: FeatureSchema, item: EncodedFeatures, user: EncodedFeatures, context: EncodedFeatures
) -> EncodedFeatures:
    """Features [T, C] and [T, N] of candidates, from features of the items [T], the user [1] and the context [1]."""
    row = np.arange(len(item.categorical))
    return TargetFeatures(schema, item, user, context).lookup(0 * row, row, 0 * row)


NO_FEATURES = FeatureSchema()
"""Schema of a dataset without features."""
_NONE = NO_FEATURES.unknown(0)
NO_TARGET_FEATURES = TargetFeatures(NO_FEATURES, _NONE, _NONE, _NONE)
