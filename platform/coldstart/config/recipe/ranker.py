"""The CTR model on an ID table: trained here or imported."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import LocalPath, Section, Share

RankerKind = Annotated[str, Field(pattern=r"^(din|dcn_v2|din_dcn|transformer|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")]
"""A built-in ranker, or `module:Class` of a custom one."""


class Table(Section):
    """The ID table: one row per item, or a compressed table if one row per item does not fit in memory."""

    kind: Literal["full", "hashed", "quotient_remainder"] = "full"
    """hashed: items share rows. quotient_remainder: each item has its own product of two shared rows."""
    rows: PositiveInt = 100_000
    """hashed: number of rows. quotient_remainder: rows of the remainder table; the quotient table has items / rows.
    full: ignored."""


class PretrainedRanker(Section):
    """An existing ranker or ID table to import instead of training a ranker; none by default."""

    id_table: LocalPath | None = None
    """ID embeddings of an external ranker: Parquet, npz or safetensors with item ids. Enough for coarse alignment."""
    weights: LocalPath | None = None
    """safetensors file with all weights of a trained ranker of class `ranker.kind`."""
    item_ids: LocalPath | None = None
    """Parquet file with a column item_id: the items of the ID table's rows, from row 1 on. `None`: the order of the
    prepared dataset."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are set."""
        return tuple(path for path in (self.id_table, self.weights, self.item_ids) if path is not None)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.id_table and self.weights:
            raise ValueError(
                "ranker.pretrained.id_table and ranker.pretrained.weights exclude each other, since weights contain "
                "an ID table; set only one of them"
            )
        if self.item_ids and not self.weights:
            raise ValueError(
                "ranker.pretrained.item_ids needs ranker.pretrained.weights; the file of ranker.pretrained.id_table "
                "contains its own ids"
            )
        return self


class Ranker(Section):
    """The CTR model on an ID table: architecture and training."""

    kind: RankerKind = "din_dcn"
    """Model class. A custom class is imported only if you name it here."""
    embedding_dim: PositiveInt = 32
    """Width `d` of an ID embedding."""
    table: Table = Table()
    pretrained: PretrainedRanker = PretrainedRanker()
    max_history: PositiveInt = 200
    """Longest history `L` of a target, in events."""
    num_heads: PositiveInt = 2
    """Attention heads, in din_dcn and transformer."""
    cross_layers: PositiveInt = 2
    """Layers of the cross network, in dcn_v2 and din_dcn."""
    mlp_units: tuple[PositiveInt, ...] = (128, 64)
    """Hidden units of the MLP, layer by layer."""
    dropout: Share = 0.1
    id_dropout: Share = 0.1
    """Share of items per step that use the OOV row, so that this row is trained for cold items."""
    epochs: PositiveInt = 8
    patience: PositiveInt = 2
    """Training stops after this many epochs without a better validation GAUC."""
    windows_per_step: PositiveInt = 128
    """Windows per global step (all ranks together); a window has at most 32 targets of one user."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products in training; bfloat16 is for GPUs. Weights and scores stay float32."""
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    embedding_adam_eps: PositiveFloat = 1e-4
    """Adam epsilon of the ID table. With a small one, rows of rare items become noise with the norm of popular rows."""
