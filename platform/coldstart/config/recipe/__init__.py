"""The recipe: every setting of a run, typed, with its unit and its reason next to each field."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from coldstart.config.recipe.challenger import Challenger, Stats
from coldstart.config.recipe.cluster import Cluster
from coldstart.config.recipe.coarse import Coarse, Negatives, Offload
from coldstart.config.recipe.contrastive import Contrastive
from coldstart.config.recipe.data import Columns, Data, DrawnNegatives, Files, Images, Modalities, Split
from coldstart.config.recipe.encoder import INSTRUCTION, Encoder, Lora, TrainableLayers
from coldstart.config.recipe.evaluation import Evaluation
from coldstart.config.recipe.fine import AdaptorAblation, Fine, Joint
from coldstart.config.recipe.generated import Generated
from coldstart.config.recipe.method import (
    METHOD_NAMES,
    SETTINGS,
    AnyMethod,
    add_default_name,
    add_names,
    settings_of,
)
from coldstart.config.recipe.pairs import Pairs
from coldstart.config.recipe.ranker import PretrainedRanker, Ranker, Table
from coldstart.config.recipe.refresh import Refresh
from coldstart.config.recipe.registry import Gate, Registry
from coldstart.config.recipe.serving import Security, Serving, Store
from coldstart.config.recipe.submit import Submit
from coldstart.config.section import LocalPath, Name, Section

__all__ = [
    "INSTRUCTION",
    "METHOD_NAMES",
    "AdaptorAblation",
    "Challenger",
    "Cluster",
    "Coarse",
    "Columns",
    "Contrastive",
    "Data",
    "DrawnNegatives",
    "Encoder",
    "Evaluation",
    "Files",
    "Fine",
    "Gate",
    "Generated",
    "Images",
    "Joint",
    "Lora",
    "Modalities",
    "Negatives",
    "Offload",
    "Pairs",
    "Paths",
    "PretrainedRanker",
    "Ranker",
    "Recipe",
    "Refresh",
    "Registry",
    "Security",
    "Serving",
    "Split",
    "Stats",
    "Store",
    "Submit",
    "Table",
    "TrainableLayers",
    "settings_of",
]


class Paths(Section):
    """Where results are written. On a cluster of several machines this must be storage that all of them can access."""

    runs: LocalPath = Path("runs")
    """Root directory of all runs; a run is in `<runs>/<recipe name>`."""


class Recipe(Section):
    """All settings of a run. Written to `<run>/recipe.yaml`, and part of the hash of what the run produces."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 17
    mature_events: PositiveInt = 20
    """Train events from which an item is mature: its ID embedding is good enough to align to and to compare with."""
    paths: Paths = Paths()
    data: Data = Data()
    content: Modalities = Modalities()
    cluster: Cluster = Cluster()
    ranker: Ranker = Ranker()
    encoder: Encoder = Encoder()
    method: Annotated[AnyMethod, BeforeValidator(add_default_name)] = SETTINGS[METHOD_NAMES[0]]()
    """One of the methods' settings, see `coldstart.methods`; `method.name` says which."""
    comparison: Annotated[dict[str, AnyMethod], BeforeValidator(add_names)] = Field(default_factory=dict)
    """Settings of the other methods in `coldstart run compare`, by their name; by default their own defaults."""
    evaluation: Evaluation = Evaluation()
    registry: Registry = Registry()
    serving: Serving = Serving()
    refresh: Refresh = Refresh()
    submit: Submit = Submit()

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
    def _check_across_sections(self) -> Self:
        self.check_divisible("ranker.windows_per_step", self.ranker.windows_per_step)
        if self.ranker.embedding_dim % self.ranker.num_heads:
            raise ValueError(
                f"ranker.embedding_dim {self.ranker.embedding_dim} is not divisible by ranker.num_heads "
                f"{self.ranker.num_heads}; choose a multiple of it"
            )
        if self.encoder.dtype == "bfloat16" and self.encoder.mllm == "tiny" and self.cluster.gpus_per_worker == 0:
            raise ValueError(
                "encoder.dtype bfloat16 is slower than float32 for the tiny MLLM on CPU; set encoder.dtype: float32"
            )
        self._check_modalities()
        self.method.check(self)
        return self

    def _check_modalities(self) -> None:
        """The method's modalities are in use, and the user's tables have columns for them."""
        columns = self.data.files.columns
        named = {"image": (columns.image,), "text": (columns.title, columns.text)}
        for modality in self.method.required_modalities:
            if not getattr(self.content, f"use_{modality}"):
                raise ValueError(
                    f"method.name {self.method.name} reads the {modality} of items, but content.use_{modality} is "
                    f"false; set it to true or choose another method"
                )
            if self.data.source == "files" and not any(named[modality]):
                keys = {"image": "image", "text": "title or text"}[modality]
                raise ValueError(
                    f"method.name {self.method.name} reads the {modality} of items, but data.files.columns names no "
                    f"column for it; set data.files.columns.{keys} or choose another method"
                )

    def check_divisible(self, key: str, per_step: int) -> None:
        """Checks that every rank gets the same number of windows.

        Args:
            key: Dotted key of the setting, for the error.
            per_step: Its value.

        Raises:
            ValueError: it is not divisible by the number of ranks.
        """
        ranks = self.cluster.workers
        if per_step % ranks:
            raise ValueError(
                f"{key} {per_step} is not divisible by cluster.workers {ranks}; choose a multiple of {ranks}"
            )
