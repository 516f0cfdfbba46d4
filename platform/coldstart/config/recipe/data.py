"""Source of items and events, their limits, and their split."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coldstart.config.recipe.generated import Generated
from coldstart.config.section import LocalPath, Section, Share


class Columns(Section):
    """Column names in the user's tables. `None`: the table has no such column."""

    item_id: str = "item_id"
    title: str | None = "title"
    text: str | None = None
    image: str | None = "image"
    """Column with encoded image bytes, or with text that names image files: a path or an address, as in
    `data.files.images`. Of a struct of `bytes` and `path`, the path counts where there are no bytes."""
    tags: tuple[str, ...] = ()
    """Further columns that are added to the item's text (genres, year, brand)."""
    created_at: str | None = None
    """Publication time, in the format of `timestamp`. Without it, evaluation uses the time of an item's first event."""
    user_id: str = "user_id"
    timestamp: str = "timestamp"
    """Unix seconds, or an Arrow timestamp."""
    label: str | None = "label"
    """`None`: every row is a click; needs `data.negatives`."""
    item_features: tuple[str, ...] = ()
    """Columns of the items table that the ranker reads in addition to the item id: brand, price."""
    user_features: tuple[str, ...] = ()
    """Columns of the users table: country, age group."""
    context_features: tuple[str, ...] = ()
    """Columns of the events table that are known before the item is shown: device, position."""
    feature_kinds: dict[str, Literal["categorical", "numeric"]] = Field(default_factory=dict)
    """Overrides the kind by column type: text, booleans and integers are categorical, floats and decimals are numeric,
    and every column of a CSV file is text."""
    leak_allowlist: tuple[str, ...] = ()
    """Features that are kept even if the leak audit finds a leak."""

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        roles = {getattr(self, name): name for name in ("item_id", "user_id", "timestamp", "label")}
        roles.pop(None, None)
        named = {field: getattr(self, field) for field in ("item_features", "user_features", "context_features")}
        for field, columns in named.items():
            for column in columns:
                if column in roles:
                    raise ValueError(f"{field} names '{column}', which is the {roles[column]} column; remove it")
                if columns.count(column) > 1:
                    raise ValueError(f"{field} names '{column}' twice; remove one")
        known = sorted({column for columns in named.values() for column in columns})
        for field in ("feature_kinds", "leak_allowlist"):
            for column in {*getattr(self, field)}.difference(known):
                features = ", ".join(known) or "none"
                raise ValueError(f"{field} names '{column}', which is not a feature; features: {features}")
        return self


class Images(Section):
    """Image files that the items table names by path, by `s3://` or `gs://` address, or by web address."""

    root: LocalPath | None = None
    """Directory of the image files: relative paths are relative to it, and no file outside it is read. None: that of
    the tables, `data.files.root`."""
    http: bool = False
    """Whether images at web addresses (`http://`, `https://`) are read. Whoever writes the items table then chooses
    what `prepare` requests from inside your network."""
    concurrency: PositiveInt = 16
    """Images that a task reads at a time."""
    per_host: PositiveInt = 8
    """Images that a task reads at a time from one web server or bucket."""
    retries: NonNegativeInt = 3
    """Further tries after a timeout, a broken connection, or an answer 429 or 5xx of a web server. The clients of
    `s3://` and `gs://` try again by themselves."""
    timeout_s: PositiveFloat = 20
    """Seconds for one try to read an image from a web server, and for all tries to read one from `gs://`."""


class Files(Section):
    """A user's tables: Parquet files, CSV files, or a directory of either."""

    root: LocalPath = Path(".")
    """Directory of the tables; their paths are relative to it."""
    items: str = "items.parquet"
    events: str = "events.parquet"
    users: str | None = None
    """Table with one row per user, for `columns.user_features`."""
    columns: Columns = Columns()
    images: Images = Images()
    positive_threshold: float | None = None
    """If set (for ratings), the label is 1 where the column is at least this number; otherwise the column must contain
    0 and 1."""

    @model_validator(mode="after")
    def _check_users_table(self) -> Self:
        if self.columns.user_features and self.users is None:
            raise ValueError("columns.user_features needs a users table; set data.files.users")
        if self.users is not None and not self.columns.user_features:
            raise ValueError(
                f"users '{self.users}' is not used; list its columns in columns.user_features or remove it"
            )
        return self


class Split(Section):
    """Split into train, valid and test. An item is cold if it has no event in train."""

    kind: Literal["temporal", "item_holdout"] = "temporal"
    valid: Share = 0.1
    """temporal: fraction of events, those before the test split in time. item_holdout: fraction of users."""
    test: Share = 0.2
    """temporal: fraction of events, the last ones. item_holdout: fraction of users."""
    holdout_items: Share = 0.15
    """item_holdout only: seeded fraction of items that training never sees."""


class DrawnNegatives(Section):
    """Negatives for a log that has clicks only: items that the user could have clicked at that moment and did not."""

    per_click: PositiveInt = 4
    by: Literal["popularity", "uniform"] = "popularity"
    """popularity: an item is drawn as often as it was clicked about that time, so popularity alone predicts nothing.
    uniform: every item that was clicked about that time is drawn alike, so popular items are predicted."""
    window_s: PositiveInt = 7 * 86_400
    """An item can be drawn if somebody clicked it at most so many seconds before or after, in the same split."""


class Data(Section):
    """Source, limits and split of the dataset."""

    source: Literal["generated", "files"] = "generated"
    generated: Generated = Generated()
    files: Files = Files()
    negatives: DrawnNegatives | None = None
    """For a log of clicks only (`files.columns.label: null`); None for a log that has impressions without clicks."""
    split: Split = Split()
    max_rejected_fraction: Share = 0.05
    """Prepare fails if it rejects a larger fraction of the rows of a table."""
    max_image_bytes: PositiveInt = 10_000_000
    max_image_pixels: PositiveInt = 16_000_000

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        clicks_only = self.source == "files" and self.files.columns.label is None
        if clicks_only and self.negatives is None:
            raise ValueError(
                "files.columns.label is null, so every row is a click and there is nothing to tell clicks from; set "
                "negatives: {per_click: 4}, or name the column that says what was clicked"
            )
        if self.negatives is not None and not clicks_only:
            raise ValueError(
                "negatives are drawn for logs of clicks only; set files.columns.label: null if every row is a click, "
                "or remove negatives"
            )
        if clicks_only and self.files.positive_threshold is not None:
            raise ValueError("files.positive_threshold needs files.columns.label; name that column, or remove it")
        return self

    @model_validator(mode="after")
    def _check_train_fraction(self) -> Self:
        if self.split.valid + self.split.test > 0.8:
            raise ValueError(
                "split.valid + split.test must be at most 0.8, so that enough is left for train; lower one of them"
            )
        return self


class Modalities(Section):
    """Modalities that the encoder reads."""

    use_image: bool = True
    use_text: bool = True

    @model_validator(mode="after")
    def _check_any_modality(self) -> Self:
        if not (self.use_image or self.use_text):
            raise ValueError("content.use_image and content.use_text are both false; set at least one to true")
        return self
