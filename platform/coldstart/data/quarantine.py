"""The quarantine: rejected rows with reasons, and the check that there are not too many."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coldstart.config.errors import UserError
from coldstart.data.dataset import part_path
from coldstart.data.schema import QUARANTINE


class Quarantine:
    """Rejected rows of all tables; raises an error if a table has too many.

    Args:
        max_rejected_fraction: Maximum fraction of a table's rows.
        on_failure: Directory in which the rejected rows are written if there are too many.
    """

    def __init__(self, max_rejected_fraction: float, on_failure: Path) -> None:
        self._max_rejected_fraction = max_rejected_fraction
        self._on_failure = on_failure
        self._rows = QUARANTINE.empty_table()

    def add(self, table: str, rows: pa.Table, total: int) -> None:
        """Adds the rows that have a reason.

        Args:
            table: Name of the table.
            rows: Some of its rows: row, key, reason, and any others.
            total: Number of rows of the table.

        Raises:
            UserError: more than the allowed fraction of the table's rows is rejected.
        """
        bad = rows.filter(pc.field("reason").is_valid())
        names = pa.array([table] * len(bad), pa.string())
        bad = bad.select(["row", "key", "reason"]).add_column(0, "table", names).cast(QUARANTINE)
        self._rows = pa.concat_tables([self._rows, bad])
        count = pc.count_distinct(self._rows.filter(pc.field("table") == table)["row"]).as_py()
        if count > self._max_rejected_fraction * total:
            self._on_failure.mkdir()
            self.write(self._on_failure)
            reason, most = next(iter(self.reasons(table).items()))
            raise UserError(
                f"{count} of {total} rows of the {table} table were rejected, but data.max_rejected_fraction is "
                f"{self._max_rejected_fraction:g}; most frequent reason ({most} rows): {reason}. All rejected rows: "
                f"{self._on_failure}"
            )

    def first_of_each(self, rows: pa.Table, name: str, repeated: str, table: str) -> pa.Table:
        """The first row of every id, ordered by id; adds the rows that repeat an id and those that have a reason.

        Args:
            rows: All rows of the table: row, key, reason, the id, and any others.
            name: Name of the id column.
            repeated: Reason for rows that repeat an id.
            table: Name of the table.

        Raises:
            UserError: more than the allowed fraction of the table's rows is rejected.
        """
        valid = rows.filter(pc.field(name).is_valid()).sort_by([(name, "ascending"), ("row", "ascending")])
        ids = np.asarray(valid[name], object)
        first = np.ones(len(ids), bool)
        first[1:] = ids[1:] != ids[:-1]
        repeats = valid.filter(pa.array(~first))
        repeats = repeats.set_column(2, "reason", pa.array([repeated] * len(repeats), pa.string()))
        self.add(table, pa.concat_tables([rows, repeats]), len(rows))
        return valid.filter(pa.array(first))

    def reasons(self, table: str) -> dict[str, int]:
        """Reason -> number of rows, most frequent first."""
        counts = Counter(self._rows.filter(pc.field("table") == table)["reason"].to_pylist())
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def write(self, directory: Path) -> None:
        """Writes all rows, ordered by table and row."""
        order = [(name, "ascending") for name in ("table", "row", "reason")]
        pq.write_table(self._rows.sort_by(order), part_path(directory, 0))
