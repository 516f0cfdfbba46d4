"""The recipe: every setting of a run, typed, with its unit and its reason next to each field."""

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from coldstart.config.recipe.challenger import Challenger, Stats
from coldstart.config.recipe.cluster import Cluster
from coldstart.config.recipe.coarse import Coarse, Negatives, Offload
from coldstart.config.recipe.data import Columns, Data, Files, Generated, Modalities, Split
from coldstart.config.recipe.encoder import INSTRUCTION, Encoder, Lora, TrainableLayers
from coldstart.config.recipe.evaluation import Evaluation
from coldstart.config.recipe.fine import AdaptorAblation, Fine, Joint
from coldstart.config.recipe.ranker import PretrainedRanker, Ranker, Table
from coldstart.config.recipe.refresh import Refresh
from coldstart.config.recipe.registry import Gate, Registry
from coldstart.config.recipe.serving import Security, Serving, Store
from coldstart.config.section import LocalPath, Name, Section

__all__ = [
    "INSTRUCTION",
    "AdaptorAblation",
    "Challenger",
    "Cluster",
    "Coarse",
    "Columns",
    "Data",
    "Encoder",
    "Evaluation",
    "Files",
    "Fine",
    "Gate",
    "Generated",
    "Joint",
    "Lora",
    "Modalities",
    "Negatives",
    "Offload",
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
    "Table",
    "TrainableLayers",
]


class Paths(Section):
    """Where results are written. On a cluster of several machines this must be storage that all of them can access."""

    runs: LocalPath = Path("runs")
    """Root directory of all runs; a run is in `<runs>/<recipe name>`."""


class Recipe(Section):
    """All settings of a run. Written to `<run>/recipe.yaml`, and part of the hash of what the run produces."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 17
    paths: Paths = Paths()
    data: Data = Data()
    content: Modalities = Modalities()
    cluster: Cluster = Cluster()
    ranker: Ranker = Ranker()
    encoder: Encoder = Encoder()
    coarse: Coarse = Coarse()
    fine: Fine = Fine()
    evaluation: Evaluation = Evaluation()
    registry: Registry = Registry()
    serving: Serving = Serving()
    refresh: Refresh = Refresh()

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
        ranks = self.cluster.workers
        sizes = self.cluster.sizes
        divisor = math.lcm(*sizes) * (self.coarse.micro_batch or 1)
        if self.coarse.batch % divisor:
            times = f" x coarse.micro_batch {self.coarse.micro_batch}" if self.coarse.micro_batch else ""
            elastic = f"every number from cluster.min_workers {sizes[0]} to " if len(sizes) > 1 else ""
            raise ValueError(
                f"coarse.batch {self.coarse.batch} is not divisible by {elastic}cluster.workers {ranks}{times}; choose "
                f"a multiple of {divisor}"
            )
        for section in ("ranker", "fine"):
            per_step = getattr(self, section).windows_per_step
            if per_step % ranks:
                raise ValueError(
                    f"{section}.windows_per_step {per_step} is not divisible by cluster.workers {ranks}; choose a "
                    f"multiple of {ranks}"
                )
        if self.ranker.embedding_dim % self.ranker.num_heads:
            raise ValueError(
                f"ranker.embedding_dim {self.ranker.embedding_dim} is not divisible by ranker.num_heads "
                f"{self.ranker.num_heads}; choose a multiple of it"
            )
        if self.encoder.dtype == "bfloat16" and self.encoder.mllm == "tiny" and self.cluster.gpus_per_worker == 0:
            raise ValueError(
                "encoder.dtype bfloat16 is slower than float32 for the tiny MLLM on CPU; set encoder.dtype: float32"
            )
        if self.encoder.dtype == "bfloat16" and self.coarse.zero_stage == 0:
            raise ValueError(
                "coarse.zero_stage 0 keeps no float32 copy of bfloat16 weights (encoder.dtype), so small updates are "
                "lost; set coarse.zero_stage: 1 (with one rank it needs nothing more)"
            )
        return self
