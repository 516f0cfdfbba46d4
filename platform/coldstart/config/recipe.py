"""The recipe: every setting of a run, typed, with the units and the reason beside each field."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section

Share = Annotated[float, Field(ge=0, lt=1)]


class Paths(Section):
    """Where results go. On a cluster of several machines this must be storage that all of them see."""

    runs: Path = Path("runs")
    """Root of all runs; a run lives in `<runs>/<recipe name>`."""


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


class Cluster(Section):
    """What a distributed stage asks of Ray."""

    workers: PositiveInt = 2
    """Training processes (ranks) per stage."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: PositiveFloat = 1
    threads_per_worker: PositiveInt = 1
    """OMP threads of each rank."""
    data_cpus: PositiveInt = 2
    """Logical CPUs left to Ray Data beside the ranks; a cluster with fewer would wait for ever."""
    embed_actors: PositiveInt = 2
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures a training stage recovers from by itself."""


RankerKind = Annotated[str, Field(pattern=r"^(din|dcn_v2|din_dcn|transformer|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")]
"""One of the platform's rankers, or `module:Class` of your own."""


class Table(Section):
    """The ID table: one row per item, or fewer numbers than that where it would outgrow its device."""

    kind: Literal["full", "hashed", "quotient_remainder"] = "full"
    """hashed: items share rows. quotient_remainder: every item has its own product of two shared rows."""
    rows: PositiveInt = 100_000
    """hashed: rows in all. quotient_remainder: rows of the remainder table, the other has items / rows. full: none."""


class Ranker(Section):
    """The CTR model on an ID table: what it is and how it is trained."""

    kind: RankerKind = "din_dcn"
    """Which model; a class of your own is imported because you name it here, and nowhere else."""
    width: PositiveInt = 32
    """Width `d` of an ID embedding."""
    table: Table = Table()
    history: PositiveInt = 200
    """Longest history `L` that a target sees, in events."""
    heads: PositiveInt = 2
    """Of attention, in din_dcn and transformer."""
    cross_layers: PositiveInt = 2
    """Of crossing, in dcn_v2 and din_dcn."""
    hidden: tuple[PositiveInt, ...] = (128, 64)
    dropout: Share = 0.1
    id_dropout: Share = 0.1
    """Share of items per step that are seen as the OOV row, so that row is trained for cold items."""
    epochs: PositiveInt = 8
    patience: PositiveInt = 2
    """Epochs without a better validation GAUC before training stops."""
    users_per_step: PositiveInt = 128
    """Windows of at most 32 targets of one user in a global step, all ranks together."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrices are multiplied in while training; bfloat16 is meant for GPUs. Weights and scores stay float32."""
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    table_eps: PositiveFloat = 1e-4
    """Adam epsilon of the ID table; a small one makes rows of rare items noise as long as popular rows."""


class Bring(Section):
    """What you bring in the place of training a ranker here; nothing by default."""

    id_table: Path | None = None
    """ID embeddings of a ranker that lives elsewhere: Parquet, npz or safetensors with item ids. Enough for coarse
    alignment."""
    weights: Path | None = None
    """safetensors of a whole trained ranker of class `ranker.kind`."""
    ids: Path | None = None
    """Parquet with a column item_id: whose the rows of the weights' ID table are, from row 1 on. `None`: they are in
    the order of the prepared dataset."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that are named."""
        return tuple(path for path in (self.id_table, self.weights, self.ids) if path is not None)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.id_table and self.weights:
            raise ValueError("bring.id_table and bring.weights exclude each other; weights hold an ID table already")
        if self.ids and not self.weights:
            raise ValueError("bring.ids belongs to bring.weights; an ID table has its ids in its own file")
        return self


class Lora(Section):
    """Low-rank adapters on the language layers (peft); the connector stays fully trained."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0


class Encoder(Section):
    """The MLLM that reads content, its prompt and what is taken from it."""

    mllm: str = "tiny"
    """`tiny` makes the offline MLLM for this dataset; otherwise a local checkpoint directory or a hub name."""
    picture_size: PositiveInt = 64
    """Pictures are fitted into a square of this many pixels per side."""
    max_text_tokens: PositiveInt = 48
    layer_groups: PositiveInt = 3
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: Lora | None = None


class Coarse(Section):
    """Coarse alignment: InfoNCE from content to the frozen ID rows of mature items (IDProxy, stage 1)."""

    min_events: PositiveInt = 20
    """Train events an item needs to be a target (tau_freq)."""
    temperature: PositiveFloat = 0.2
    epochs: PositiveInt = 9
    batch: PositiveInt = 64
    """Global batch in items: all ranks together, which is also the number of negatives plus one."""
    accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strong, for an MLLM that learns from scratch on thousands of items; a pre-trained one wants about 0.01."""
    warmup: Share = 0.1
    """Share of steps; a cosine follows."""
    clip: PositiveFloat = 1.0
    hidden_words: Share = 0.2
    """Share of an item's words that a step does not show; a few thousand items are learnt by heart otherwise."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    holdout: Share = 0.1
    """Seeded share of mature items kept out of the loss to measure retrieval of their own ID."""
    checkpoint_every: PositiveInt = 50
    """Steps between resumable checkpoints."""


class Fine(Section):
    """Fine alignment: the adaptor, trained by click loss through the frozen ranker (IDProxy, stage 2)."""

    mode: Literal["frozen"] = "frozen"
    hidden: PositiveInt = 256
    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    users_per_step: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    dropout: Share = 0.3


class Evaluation(Section):
    """What is measured and how sure we are."""

    bootstrap: PositiveInt = 1000
    """Resamples of users for the paired intervals."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    calibration_bins: PositiveInt = 15
    top: PositiveInt = 10
    """Places `K` that NDCG@K and Recall@K look at."""


class Gate(Section):
    """A condition that an adaptor version must meet to become champion."""

    label: str
    """Its name in verdicts and records."""
    metric: Literal["auc", "gauc", "gauc_item", "logloss", "ece", "golden_ms", "golden_parity"] = "gauc"
    """A figure of the release on its test rows; or, on the golden requests, the median processor milliseconds of a
    ranking and the largest difference between the served and the offline probability of the same row."""
    slice: Literal["all", "cold", "few", "mid", "warm", "fresh"] | None = None
    """Rows that the metric is of; none for golden requests."""
    against: Literal["champion", "absolute"] = "champion"
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """champion: how far the paired difference on the same rows, its whole interval, may reach to the worse side."""
    bound: float | None = None
    """absolute: the worst figure that passes."""
    min_rows: Annotated[int, Field(ge=0)] = 0
    """Rows the figure must be of: fewer say nothing."""

    @property
    def lower_is_better(self) -> bool:
        """Whether a small figure is a good one."""
        return self.metric not in ("auc", "gauc", "gauc_item")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        golden = self.metric.startswith("golden")
        if golden == (self.slice is not None):
            wants = "has no slice, it is of the golden requests" if golden else "needs the slice it is of, e.g. cold"
            raise ValueError(f"gate '{self.label}': {self.metric} {wants}")
        if golden and (self.against == "champion" or self.min_rows):
            raise ValueError(f"gate '{self.label}': {self.metric} is compared with a bound; set against: absolute")
        if self.against == "champion" and self.metric in ("auc", "ece"):
            raise ValueError(
                f"gate '{self.label}': {self.metric} is no mean over users, so it has no paired interval; compare "
                "gauc, gauc_item or logloss with the champion, and this with a bound"
            )
        if (self.against == "absolute") != (self.bound is not None):
            raise ValueError(f"gate '{self.label}': bound belongs to against: absolute, and tolerance to champion")
        return self


class Registry(Section):
    """Where models are registered and what a promotion must show."""

    tracking_uri: str | None = None
    """MLflow server or database URI; `None` is SQLite beside the runs."""
    project: str | None = None
    """Prefix of the registered models; `None` is the recipe's name."""
    gates: tuple[Gate, ...] = (
        Gate(label="cold quality", metric="gauc_item", slice="cold", tolerance=0.02, min_rows=100),
        Gate(label="warm quality", metric="gauc_item", slice="warm", tolerance=0.02, min_rows=100),
        Gate(label="likelihood", metric="logloss", slice="all", tolerance=0.01, min_rows=100),
        Gate(label="cost of a ranking", metric="golden_ms", against="absolute", bound=100.0),
        Gate(label="served as measured", metric="golden_parity", against="absolute", bound=1e-4),
    )
    """Of a champion; a challenger only has to be a consistent release. Quality is told by `gauc_item`: on a log, where
    the history's click rate points the wrong way, any noise in the slots raises the plain `gauc`."""
    licence: str = "apache-2.0"
    """SPDX name, a tag on every registered version; of a real MLLM, its own licence."""
    licences: tuple[str, ...] = ()
    """Licences that a champion may carry; empty allows any."""
    rollback_window: PositiveInt = 3
    """Champion releases before the present one that `coldstart gc` leaves ready for a rollback."""


class Serving(Section):
    """The Ray Serve application."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    max_candidates: PositiveInt = 1000
    max_request_bytes: PositiveInt = 20_000_000
    max_batch: PositiveInt = 16
    batch_wait_ms: PositiveFloat = 2.0
    request_timeout_s: PositiveFloat = 30.0
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 2
    poll_s: PositiveFloat = 2.0
    """Pause between two looks at the registry for another champion, s; one look is a handful of small queries."""

    @model_validator(mode="after")
    def _replica_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("serving.max_replicas is below serving.min_replicas; raise it")
        return self


class Recipe(Section):
    """A complete run. Written to `<run>/recipe.yaml` and hashed with everything it produces."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0)] = 17
    paths: Paths = Paths()
    data: Data = Data()
    content: ContentSwitch = ContentSwitch()
    cluster: Cluster = Cluster()
    ranker: Ranker = Ranker()
    bring: Bring = Bring()
    encoder: Encoder = Encoder()
    coarse: Coarse = Coarse()
    fine: Fine = Fine()
    evaluation: Evaluation = Evaluation()
    registry: Registry = Registry()
    serving: Serving = Serving()

    @property
    def run_dir(self) -> Path:
        """Directory of this run."""
        return self.paths.runs / self.name

    @property
    def project(self) -> str:
        """Prefix of the registered models."""
        return self.registry.project or self.name

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.registry.tracking_uri or f"sqlite:///{(self.paths.runs / 'mlflow.db').absolute()}"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        ranks = self.cluster.workers
        if self.coarse.batch % (ranks * self.coarse.accumulation):
            raise ValueError(
                f"coarse.batch {self.coarse.batch} is not divisible by cluster.workers x coarse.accumulation "
                f"({ranks} x {self.coarse.accumulation}); choose a multiple of {ranks * self.coarse.accumulation}"
            )
        for section in ("ranker", "fine"):
            per_step = getattr(self, section).users_per_step
            if per_step % ranks:
                raise ValueError(f"{section}.users_per_step {per_step} is not divisible by cluster.workers {ranks}")
        if self.ranker.width % self.ranker.heads:
            raise ValueError(f"ranker.width {self.ranker.width} is not divisible by ranker.heads {self.ranker.heads}")
        if self.encoder.dtype == "bfloat16" and self.encoder.mllm == "tiny" and self.cluster.gpus_per_worker == 0:
            raise ValueError(
                "encoder.dtype bfloat16 is slower than float32 for the tiny MLLM on CPU; set encoder.dtype: float32"
            )
        return self
