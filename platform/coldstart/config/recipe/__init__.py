"""The recipe: every setting of a run, typed, with the units and the reason beside each field."""

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from coldstart.config.recipe.adaptor import AdaptorParts, Fine, Joint
from coldstart.config.recipe.challenger import Challenger, Watch
from coldstart.config.recipe.cluster import Cluster
from coldstart.config.recipe.coarse import Coarse, Negatives, Offload
from coldstart.config.recipe.data import Columns, ContentSwitch, Data, Files, Generated, Split
from coldstart.config.recipe.encoder import CUE, Encoder, Lora, Trained
from coldstart.config.recipe.evaluation import Evaluation
from coldstart.config.recipe.ranker import Bring, Ranker, Table
from coldstart.config.recipe.refresh import Refresh
from coldstart.config.recipe.registry import Gate, Registry
from coldstart.config.recipe.serving import Security, Serving, Store
from coldstart.config.section import Section

__all__ = [
    "CUE",
    "AdaptorParts",
    "Bring",
    "Challenger",
    "Cluster",
    "Coarse",
    "Columns",
    "ContentSwitch",
    "Data",
    "Encoder",
    "Evaluation",
    "Files",
    "Fine",
    "Gate",
    "Generated",
    "Joint",
    "Lora",
    "Negatives",
    "Offload",
    "Paths",
    "Ranker",
    "Recipe",
    "Refresh",
    "Registry",
    "Security",
    "Serving",
    "Split",
    "Store",
    "Table",
    "Trained",
    "Watch",
]


class Paths(Section):
    """Where results go. On a cluster of several machines this must be storage that all of them see."""

    runs: Path = Path("runs")
    """Root of all runs; a run lives in `<runs>/<recipe name>`."""


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
    def _fits_together(self) -> Self:
        ranks = self.cluster.workers
        sizes = self.cluster.sizes
        least = math.lcm(*sizes) * (self.coarse.micro_batch or 1)
        if self.coarse.batch % least:
            times = f" x coarse.micro_batch {self.coarse.micro_batch}" if self.coarse.micro_batch else ""
            elastic = f"every number from cluster.min_workers {sizes[0]} to " if len(sizes) > 1 else ""
            raise ValueError(
                f"coarse.batch {self.coarse.batch} is not divisible by {elastic}cluster.workers {ranks}{times}; choose "
                f"a multiple of {least}"
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
        if self.encoder.dtype == "bfloat16" and self.coarse.zero_stage == 0:
            raise ValueError(
                "coarse.zero_stage 0 keeps no float32 copy of weights in encoder.dtype bfloat16, so small steps would "
                "be lost; set coarse.zero_stage: 1 (of one rank it asks nothing more)"
            )
        return self
