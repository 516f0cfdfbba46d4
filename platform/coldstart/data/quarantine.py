"""Rejected rows, with reasons, and the point at which there are too many of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coldstart.config.errors import UserError
from coldstart.data.contract import QUARANTINE
from coldstart.data.dataset import part_path


class Quarantine:
    """Rejected rows of all tables; stops the run when they are too many."""

    def __init__(self, max_bad_share: float, on_failure: Path) -> None:
        self._max_bad_share = max_bad_share
        self._on_failure = on_failure
        self._rows = QUARANTINE.empty_table()

    def add(self, table: str, rows: pa.Table, total: int) -> None:
        """Takes the rows that have a reason, out of `total` rows of the table.

        Raises:
            UserError: the table has lost more than the allowed share of its rows.
        """
        bad = rows.filter(pc.field("reason").is_valid())
        names = pa.array([table] * len(bad), pa.string())
        bad = bad.select(["row", "key", "reason"]).add_column(0, "table", names).cast(QUARANTINE)
        self._rows = pa.concat_tables([self._rows, bad])
        count = pc.count_distinct(self._rows.filter(pc.field("table") == table)["row"]).as_py()
        if count > self._max_bad_share * total:
            self._on_failure.mkdir()
            self.write(self._on_failure)
            reason, most = next(iter(self.reasons(table).items()))
            raise UserError(
                f"{count} of {total} rows of the {table} table cannot be used, but data.max_bad_share allows a share "
                f"of {self._max_bad_share:g}; most often ({most} times): {reason}. All of them: {self._on_failure}"
            )

    def first_of_each(self, rows: pa.Table, name: str, repeated: str, table: str) -> pa.Table:
        """The first row of every id, in the order of ids; takes those that repeat one, and those that have a reason.

        Args:
            rows: All rows of the table: row, key, reason, the id, and any others.
            name: Column of the id.
            repeated: Reason for a row that repeats an id.
            table: Name of the table.

        Raises:
            UserError: the table has lost more than the allowed share of its rows.
        """
        valid = rows.filter(pc.field(name).is_valid()).sort_by([(name, "ascending"), ("row", "ascending")])
        ids = np.asarray(valid[name], object)
        first = np.ones(len(ids), bool)
        first[1:] = ids[1:] != ids[:-1]
        again = valid.filter(pa.array(~first))
        again = again.set_column(2, "reason", pa.array([repeated] * len(again), pa.string()))
        self.add(table, pa.concat_tables([rows, again]), len(rows))
        return valid.filter(pa.array(first))

    def reasons(self, table: str) -> dict[str, int]:
        """Reason -> rows, the most common first."""
        counts = Counter(self._rows.filter(pc.field("table") == table)["reason"].to_pylist())
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def write(self, directory: Path) -> None:
        """Writes all rows, in the order of the tables."""
        order = [(name, "ascending") for name in ("table", "row", "reason")]
        pq.write_table(self._rows.sort_by(order), part_path(directory, 0))
