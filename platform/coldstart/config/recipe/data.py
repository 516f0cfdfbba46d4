"""Where items and events come from, and how they are split."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section, Share


class Generated(Section):
    """The embedded default catalogue (`coldstart generate`): a simulated content platform with known truth."""

    items: PositiveInt = 4000
    users: PositiveInt = 2000
    events: PositiveInt = 400_000
    weeks: PositiveInt = 8
    """Simulated length; items are published all through it."""
    picture_size: PositiveInt = 64
    """Pixels per side of a drawn picture."""
    missing_picture: Share = 0.05
    missing_text: Share = 0.4
    """Share of items whose long text is missing (a title is always there)."""
    logit_std: PositiveFloat = 2.0
    """Between-item standard deviation of the click log-odds."""
    taste_share: Share = 0.5
    """Share of that variance which is taste over traits that content shows."""
    hidden_share: Share = 0.25
    """Share which is appeal that nothing shows; the rest is appeal that content shows."""


class Columns(Section):
    """Names of the user's own columns. `None` says that the table has no such column."""

    item_id: str = "item_id"
    title: str | None = "title"
    text: str | None = None
    picture: str | None = "image"
    """Column with encoded image bytes."""
    tags: tuple[str, ...] = ()
    """Further columns that are read as words into the item's text (genres, year, brand)."""
    created_at: str | None = None
    """When an item was published, as `timestamp`; without it, its first event stands for that in evaluation."""
    user_id: str = "user_id"
    timestamp: str = "timestamp"
    """Unix seconds, or an Arrow timestamp."""
    label: str = "label"
    item_features: tuple[str, ...] = ()
    """Columns of the items table that the ranker reads beside the item itself: brand, price."""
    user_features: tuple[str, ...] = ()
    """Columns of the users table: country, age group."""
    context_features: tuple[str, ...] = ()
    """Columns of the events table that are known before the item is shown: device, position."""
    feature_kinds: dict[str, Literal["categorical", "numeric"]] = Field(default_factory=dict)
    """Only where the type of a column does not say it: text, booleans and whole numbers are categorical, fractions
    are numeric, and everything in a CSV file is text."""
    trusted_features: tuple[str, ...] = ()
    """Features that are kept although the leak audit finds labels in them."""

    @model_validator(mode="after")
    def _features_are_features(self) -> Self:
        roles = {getattr(self, name): name for name in ("item_id", "user_id", "timestamp", "label")}
        named = {field: getattr(self, field) for field in ("item_features", "user_features", "context_features")}
        for field, columns in named.items():
            for column in columns:
                if column in roles:
                    raise ValueError(f"{field} names '{column}', which is the {roles[column]}; take it out")
                if columns.count(column) > 1:
                    raise ValueError(f"{field} names '{column}' twice; name it once")
        known = sorted({column for columns in named.values() for column in columns})
        for field in ("feature_kinds", "trusted_features"):
            for column in {*getattr(self, field)}.difference(known):
                told = ", ".join(known) or "none"
                raise ValueError(f"{field} names '{column}', which is no feature; features: {told}")
        return self


class Files(Section):
    """A user's own tables: Parquet, CSV, or a directory of either."""

    root: Path = Path(".")
    """Directory that the tables are relative to."""
    items: str = "items.parquet"
    events: str = "events.parquet"
    users: str | None = None
    """Table with a row per user, for `columns.user_features`."""
    columns: Columns = Columns()
    label_at_least: float | None = None
    """If set, the label is `column >= label_at_least` (ratings); otherwise the column must hold 0 and 1."""

    @model_validator(mode="after")
    def _users_have_features(self) -> Self:
        if self.columns.user_features and self.users is None:
            raise ValueError("columns.user_features are columns of a users table; name it in data.files.users")
        if self.users is not None and not self.columns.user_features:
            raise ValueError(f"users '{self.users}' would not be read: name its columns in columns.user_features")
        return self


class Split(Section):
    """How rows are kept apart. Cold means: no event of the item is in train."""

    kind: Literal["temporal", "item_holdout"] = "temporal"
    valid: Share = 0.1
    """temporal: share of events, in time, before the test part. item_holdout: share of users."""
    test: Share = 0.2
    """temporal: last share of events by time. item_holdout: share of users."""
    holdout_items: Share = 0.15
    """item_holdout only: seeded share of items that never enter training."""


class Data(Section):
    """Source, limits and split of the dataset."""

    source: Literal["generated", "files"] = "generated"
    generated: Generated = Generated()
    files: Files = Files()
    split: Split = Split()
    max_bad_share: Share = 0.05
    """Stop when a larger share of a table's rows has to be quarantined."""
    max_picture_bytes: PositiveInt = 10_000_000
    max_picture_pixels: PositiveInt = 16_000_000

    @model_validator(mode="after")
    def _split_leaves_train(self) -> Self:
        if self.split.valid + self.split.test > 0.8:
            raise ValueError(
                "split.valid + split.test must be at most 0.8 so that train is not starved; lower one of them"
            )
        return self


class ContentSwitch(Section):
    """Which modalities the encoder may read: the ablation switch."""

    picture: bool = True
    text: bool = True

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if not (self.picture or self.text):
            raise ValueError("content.picture and content.text are both off; set at least one to true")
        return self
