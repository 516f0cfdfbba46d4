"""Features of items, users and contexts: how raw values become codes and numbers, and those of a target as arrays.

Everything that is learnt here (vocabularies, means, scales) is learnt from train events, so nothing of a later time
reaches training. A value that was not in train, or is missing, has code 0. Legend: `C` categorical features,
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

from coldstart.config.section import Section
from coldstart.data.columns import numbers, texts

Owner = Literal["item", "user", "context"]
Kind = Literal["categorical", "numeric"]
OWNERS: tuple[Owner, ...] = get_args(Owner)
"""In the order in which their features stand in a batch."""

_LARGEST = 8.0
"""Standard deviations at which a number is clipped, so that one absurd value cannot blow up a score."""


@dataclass(frozen=True)
class Coded:
    """Features ready for a model.

    Attributes:
        categorical: [..., C] int64 codes, 0 for unknown or missing.
        numeric: [..., N] float32, standardised; 0 where missing.
    """

    categorical: NDArray[np.int64]
    numeric: NDArray[np.float32]


class Categorical(Section):
    """A feature whose values are names: code `i + 1` stands for `values[i]`."""

    owner: Owner
    name: str
    values: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        """Number of codes, 0 (unknown) included."""
        return len(self.values) + 1

    @cached_property
    def _known(self) -> pa.Array:
        return pa.array(self.values, pa.string())

    def code(self, column: pa.Array) -> NDArray[np.int64]:
        """Codes [n] of a column of raw values."""
        found = pc.index_in(texts(column), value_set=self._known)
        return np.asarray(pc.add(pc.fill_null(found, -1), 1)).astype(np.int64)


class Numeric(Section):
    """A feature whose values are numbers, standardised by mean and scale."""

    owner: Owner
    name: str
    mean: float
    scale: PositiveFloat

    def standardise(self, column: pa.Array) -> NDArray[np.float32]:
        """Standardised values [n] of a column of raw values; 0, the mean, where there is no finite number."""
        values = (numbers(column) - self.mean) / self.scale
        clipped = np.clip(np.where(np.isfinite(values), values, 0), -_LARGEST, _LARGEST)
        return clipped.astype(np.float32)


class FeatureSchema(Section):
    """The features of a dataset and of the rankers trained on it, with all that is needed to encode a raw value.

    Both lists hold features of items first, then of users, then of contexts.
    """

    categorical: tuple[Categorical, ...] = ()
    numeric: tuple[Numeric, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.categorical or self.numeric)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each categorical feature."""
        return tuple(feature.cardinality for feature in self.categorical)

    def of(self, owner: Owner) -> "FeatureSchema":
        """The features that an item, a user or a context has."""
        return FeatureSchema(
            categorical=tuple(feature for feature in self.categorical if feature.owner == owner),
            numeric=tuple(feature for feature in self.numeric if feature.owner == owner),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features."""
        return tuple(one.name for one in self.categorical) + tuple(one.name for one in self.numeric)

    def encode(self, columns: Mapping[str, pa.Array], count: int) -> Coded:
        """Encodes `count` rows of raw values; a feature without a column is missing everywhere."""
        nothing = pa.nulls(count)
        codes = [feature.code(columns.get(feature.name, nothing)) for feature in self.categorical]
        values = [feature.standardise(columns.get(feature.name, nothing)) for feature in self.numeric]
        return Coded(
            np.stack(codes, -1) if codes else np.zeros((count, 0), np.int64),
            np.stack(values, -1) if values else np.zeros((count, 0), np.float32),
        )


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
            return Coded(np.zeros((*item_idx.shape, 0), np.int64), np.zeros((*item_idx.shape, 0), np.float32))
        parts = ((self.item, item_idx), (self.user, user), (self.context, position))
        return Coded(
            np.concatenate([coded.categorical[index] for coded, index in parts], -1),
            np.concatenate([coded.numeric[index] for coded, index in parts], -1),
        )


NO_FEATURES = FeatureSchema()
"""Of a dataset that has none."""
_NONE = NO_FEATURES.encode({}, 0)
NO_TARGET_FEATURES = TargetFeatures(NO_FEATURES, _NONE, _NONE, _NONE)
