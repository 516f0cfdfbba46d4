"""What gateways know of a release's scorer without loading it: a ranker may have an ID table of many GB."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coldstart.config import UserError
from coldstart.data.item_table import ColumnSpecs
from coldstart.serving.store.row_layout import dump_columns, load_columns

_INFO, _WEIGHT = "scorer.json", "id_weight.npy"


@dataclass(frozen=True)
class ScorerInfo:
    """Facts about a scorer, which are stored next to the rows of its items.

    Attributes:
        columns: Columns of a row.
        reads_history: Whether it reads rows of history events, too.
        id_weight: [V] how much of a target's ID row each item uses.
    """

    columns: ColumnSpecs
    reads_history: bool
    id_weight: npt.NDArray[np.float32]

    def write(self, directory: Path) -> None:
        """Writes them into a store."""
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / _WEIGHT, self.id_weight)
        # Written last: where it exists, all is complete.
        info = {"columns": dump_columns(self.columns), "reads_history": self.reads_history}
        (directory / _INFO).write_text(json.dumps(info))

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether a store has them."""
        return (directory / _INFO).is_file()

    @classmethod
    def read(cls, directory: Path) -> "ScorerInfo":
        """Reads them from a store.

        Raises:
            UserError: the store is not filled.
        """
        if not cls.exists(directory):
            raise UserError(f"the store {directory} is not filled: {_INFO} is missing; deploy the release again")
        info = json.loads((directory / _INFO).read_text())
        return cls(load_columns(info["columns"]), info["reads_history"], np.load(directory / _WEIGHT))
