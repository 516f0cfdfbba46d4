"""A training stage: what its driver gives to the ranks, and where these log and save."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from coldstart.config import MetricsLog, Recipe, digest
from coldstart.metrics.clicks import gauc
from coldstart.training.contrastive_trainer import ContrastiveContext
from coldstart.training.ctr_trainer import TrainingContext
from coldstart.training.launch import launch


@dataclass(frozen=True)
class TrainingStage:
    """A training on all ranks that continues from its last checkpoint.

    Attributes:
        recipe: Of the run.
        run_dir: Its directory; absolute, because ranks run in another directory.
        name: Names the metrics log and the checkpoints.
        key: Digest of everything that the result depends on. Checkpoints of another key are not resumed.
        inputs: Kind -> fingerprint of the artifacts that the ranks open: the lineage of the result.
        options: Further arguments of the worker, by name; picklable.
    """

    recipe: Recipe
    run_dir: Path
    name: str
    key: str
    inputs: dict[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, name: str, settings: Sequence[Any], inputs: dict[str, str], **options: Any) -> Self:
        """The stage whose result depends on these settings, the recipe's seed and the inputs."""
        key = digest([*settings, recipe.seed, inputs])
        return cls(recipe, recipe.run_dir.absolute(), name, key, inputs, options)

    @property
    def metrics_log(self) -> MetricsLog:
        """The log that the progress line follows."""
        return MetricsLog(self.run_dir / "metrics" / f"{self.name}.jsonl")

    @property
    def checkpoints(self) -> Path:
        """Directory of the resumable state."""
        return self.run_dir / "checkpoints" / self.name / self.key[:16]

    def run(self, worker: Callable[["TrainingStage"], None], *, epochs: int | None = None) -> None:
        """Calls `worker(self)` on all ranks of the recipe's cluster, and removes the checkpoints at the end.

        Args:
            worker: A function of a module; it must continue from the checkpoints.
            epochs: Of the whole training, if they are the unit of its metrics log.

        Raises:
            UserError: as `launch` does.
            RuntimeError: as `launch` does.
        """
        if not self.checkpoints.exists():
            self.metrics_log.clear()
            if epochs is not None:
                self.metrics_log.write(0, epochs)
        launch(
            _call,
            {"worker": worker, "stage": self},
            cluster=self.recipe.cluster,
            name=self.name,
            storage=self.run_dir / "checkpoints",
            inputs=self.inputs,
        )
        shutil.rmtree(self.checkpoints.parent, ignore_errors=True)

    @property
    def click_training(self) -> TrainingContext:
        """What a `CTRTrainer` needs."""
        return TrainingContext(
            seed=self.recipe.seed, gauc=gauc, metrics_log=self.metrics_log, checkpoints=self.checkpoints
        )

    @property
    def contrastive_training(self) -> ContrastiveContext:
        """What a `ContrastiveTrainer` needs."""
        return ContrastiveContext(self.recipe.seed, self.metrics_log, self.checkpoints, self.key)


def _call(payload: dict[str, Any]) -> None:
    payload["worker"](payload["stage"])
