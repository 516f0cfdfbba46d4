"""The CTR model on an ID table: trained here, or brought."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section, Share

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
