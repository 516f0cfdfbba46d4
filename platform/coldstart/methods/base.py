"""The method contract: what a method is made of, and how the platform trains, registers and serves it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import Artifact, Recipe, UserError
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ColumnSpecs, ItemTable
from coldstart.rankers import load_ranker
from coldstart.rankers.scorer import Scorer, SlotScorer

SCORER = "scorer"
"""Kind of the artifact that names a release, in every method: what clicks have trained."""
ITEM_TABLE = "item_table"
"""Kind of the encoder's outputs for the catalog."""
Parts = Mapping[str, Path]
"""Kind -> directory of that artifact, of one release or one run."""


class ItemEncoder(Protocol):
    """Maps content to columns: the embed job and `POST /v1/items` run the same code."""

    @property
    def outputs(self) -> ColumnSpecs:
        """Columns that it writes."""

    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Column -> `[n, ...]`; equal lists give equal results."""


class ItemAdaptor(torch.nn.Module, ABC):
    """Maps the encoder's columns to those that the scorer reads; cheap, and trained after the encoder.

    Attributes:
        inputs: Columns of the encoder that it reads.
        outputs: Columns that it writes; with these a release is served.
    """

    inputs: ColumnSpecs
    outputs: ColumnSpecs

    @abstractmethod
    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Column -> `[n, ...]` of columns `[n, ...]`; each item depends on its own row only."""


class KeepColumns(ItemAdaptor):
    """Writes the columns that it reads, for methods whose scorer reads the encoder's own.

    Args:
        columns: As the encoder writes them.
    """

    def __init__(self, columns: ColumnSpecs) -> None:
        super().__init__()
        self.inputs = self.outputs = columns

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same columns."""
        return {name: columns[name] for name in self.outputs}


class JoinedColumns(ItemAdaptor):
    """Writes the columns of several adaptors.

    Args:
        adaptors: They read columns of the same encoder.

    Attributes:
        parts: The adaptors.
    """

    def __init__(self, *adaptors: ItemAdaptor) -> None:
        super().__init__()
        self.parts, self.adaptors = adaptors, torch.nn.ModuleList(adaptors)
        self.inputs = {name: spec for adaptor in adaptors for name, spec in adaptor.inputs.items()}
        self.outputs = {name: spec for adaptor in adaptors for name, spec in adaptor.outputs.items()}

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The columns of all."""
        return {name: values for part in self.parts for name, values in part(columns).items()}


@torch.inference_mode()
def adapt(adaptor: ItemAdaptor, items: ItemTable) -> ItemTable:
    """The columns that an adaptor writes, for all rows of a table."""
    passes = [adaptor(columns) for _, columns in items.select(adaptor.inputs).passes()]
    return ItemTable({name: torch.cat([part[name] for part in passes]) for name in adaptor.outputs})


FieldType = Literal["string", "binary", "long", "double"]


@dataclass(frozen=True)
class FieldSpec:
    """A column of a registered model's input or output.

    Attributes:
        name: The column.
        type: Of one value.
        dimensions: 0 for a value, 1 for a list, 2 for a list of lists.
        required: Whether it must be given.
    """

    name: str
    type: FieldType
    dimensions: int = 0
    required: bool = True


class Predictor(Protocol):
    """A loaded model as MLflow calls it."""

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One output row per input row."""


def reads_nothing(artifact: Artifact) -> ColumnSpecs:
    """For kinds that read no column of the item table, or whose manifest does not tell."""
    return {}


def no_limitations(recipe: Recipe) -> Sequence[str]:
    """For kinds without limitations of their own."""
    return ()


@dataclass(frozen=True)
class ArtifactKind:
    """A kind of artifact that is registered as a model.

    Attributes:
        name: The kind; the registered model is `<project>-<name>`.
        inputs: Columns of its input.
        outputs: Columns of its output.
        load: Loads an artifact directory for prediction.
        example: A valid input row for an artifact; also gets the item table that belongs to it, or None.
        evaluated_as: Variant of the evaluation whose metrics are logged with the model.
        purpose: What such a model does; the first paragraph of its model card.
        reads: Columns of the item table that an artifact reads, as far as its manifest tells.
        limitations: Sentences for the model card, besides those that hold for every model.
        shared_with: Other methods whose artifacts of this kind it loads, too, because the same stage makes them.
    """

    name: str
    inputs: tuple[FieldSpec, ...]
    outputs: tuple[FieldSpec, ...]
    load: Callable[[Path], Predictor]
    example: Callable[[Artifact, Artifact | None], dict[str, Any]]
    evaluated_as: str
    purpose: str = ""
    reads: Callable[[Artifact], ColumnSpecs] = reads_nothing
    limitations: Callable[[Recipe], Sequence[str]] = no_limitations
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A step that makes one artifact from others.

    Attributes:
        name: Name of the workload, in logs and in `coldstart run <name>`.
        output: Kind of the artifact that it writes, which is also its directory in the run.
        run: The workload.
        sections: Recipe keys, besides the seed, whose change makes the stage run again.
        inputs: Kinds of the artifacts that it reads.
        intermediate: Whether only other stages read what it writes, and evaluation and serving do not.
    """

    name: str
    output: str
    run: Callable[[Recipe], Artifact]
    sections: tuple[str, ...] = ()
    inputs: tuple[str, ...] = field(default=())
    intermediate: bool = False


@dataclass(frozen=True)
class Variant:
    """One way of scoring the rows of an evaluation.

    Variants with the same `load` and the same `items` are scored once.

    Attributes:
        name: Is described in the method's settings.
        load: Loads the scorer from a run's artifact directories; it runs in other processes.
        items: The columns that the scorer reads.
        own_model: Whether the scorer is another ranker than the run's, so that its scores of unknown targets differ.
        item_effect: Whether the item effect of cold items is measured.
        adapt: Maps the encoder's columns to those of `items`, to measure what image and text contribute.
    """

    name: str
    load: Callable[[Parts], Scorer]
    items: ItemTable
    own_model: bool = False
    item_effect: bool = False
    adapt: Callable[[ItemTable], ItemTable] | None = None


@dataclass(frozen=True)
class Finding:
    """A measurement that only one method has.

    Attributes:
        figures: For the summary of the evaluation.
        text: One paragraph of the report.
    """

    figures: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class Diagnostics:
    """What the report can measure of a method, besides what it measures of each.

    Attributes:
        content: `[V, ...]` content of each item, from which a regression predicts ID rows; None to leave that out.
        held_out: Mature items that no training of the method has seen.
        slots: Variants whose vectors take the place of ID rows in the run's ranker and are compared with them, the
            most important first.
        findings: Name -> what only this method has.
    """

    content: Tensor | None = None
    held_out: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, np.int64))
    slots: tuple[str, ...] = ()
    findings: Mapping[str, Finding] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """What an update starts from.

    Attributes:
        scorer: Its artifact.
        last_event_at: Unix seconds of the last event that it was trained on.
        datasets: Fingerprints of the datasets that the new one continues, see `continued_datasets`.
    """

    scorer: Artifact
    last_event_at: int
    datasets: tuple[str, ...]


def continued_datasets(scorer: Artifact) -> tuple[str, ...]:
    """Datasets with the same catalog and older events, on which other parts of an updated scorer's release are made."""
    return tuple(scorer.metadata.get("continues", ()))


def load_slot_scorer(parts: Parts) -> Scorer:
    """The run's ranker with given vectors in its item slots."""
    return SlotScorer(load_ranker(parts["ranker"])).eval()


class Method(ABC):
    """A paper, as code: its stages, its item encoder, its scorer, and the kinds of models it registers.

    Attributes:
        name: As in the recipe's `method.name`.
        kinds: What it registers, in the order of their lineage; the last is `SCORER`.
        encoder_kinds: Kinds that `load_encoder` reads; releases with equal artifacts of these share one deployment.
        code_column: Column of the served item table with semantic IDs, or None.
    """

    name: str
    kinds: tuple[ArtifactKind, ...]
    encoder_kinds: tuple[str, ...]
    code_column: str | None = None

    @abstractmethod
    def catalog_dir(self, parts: Parts) -> Path:
        """Directory with the ids and the encoded features of the catalog, as `rankers.save_ranker` writes them."""

    @abstractmethod
    def load_encoder(self, parts: Parts, device: torch.device | str) -> ItemEncoder:
        """The encoder of a release."""

    @abstractmethod
    def load_adaptor(self, parts: Parts) -> ItemAdaptor:
        """The adaptor of a release, in eval mode on the CPU."""

    @abstractmethod
    def load_scorer(self, parts: Parts) -> Scorer:
        """The scorer of a release, in eval mode on the CPU."""

    @abstractmethod
    def neighbor_column(self, parts: Parts) -> str:
        """Column of a release's item rows by which similar items are found."""

    @abstractmethod
    def neighbor_rows(self, parts: Parts) -> tuple[NDArray[Any], NDArray[Any]]:
        """Items with reliable vectors, `[n]` catalog indices, and their vectors `[n, w]` in the neighbor column."""

    @abstractmethod
    def stages(self, recipe: Recipe) -> tuple[Stage, ...]:
        """The method's stages in order; the ranker's and the dataset's come before them."""

    @abstractmethod
    def variants(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> list[Variant]:
        """The variants that are evaluated, `release` included.

        Args:
            recipe: Of the run.
            dataset: Of the run.
            parts: Kind -> directory of the run's artifacts.
        """

    def update(self, recipe: Recipe, champion: Champion) -> Artifact:
        """Trains what follows changing behavior on newer events, and writes a scorer.

        Args:
            recipe: Of the update; its run directory has the new dataset and all other parts of the champion.
            champion: What to start from.

        Raises:
            UserError: the method has no such part.
        """
        raise UserError(
            f"the method {self.name} has no part that is updated alone; run the pipeline on the newer events instead"
        )

    def diagnostics(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> Diagnostics:
        """What the report measures of a run of this method, besides what it measures of each.

        Args:
            recipe: Of the run.
            dataset: Of the run.
            parts: Kind -> directory of the run's artifacts.
        """
        return Diagnostics()

    @property
    def upstream(self) -> tuple[str, ...]:
        """Kinds besides the scorer of which a release consists."""
        return tuple(kind.name for kind in self.kinds if kind.name != SCORER)
