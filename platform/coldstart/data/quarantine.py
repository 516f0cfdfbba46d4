"""The quarantine: rejected and merged rows with reasons, and the check that not too many are rejected."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coldstart.config.errors import UserError
from coldstart.data.cleaning import MERGED_EVENT
from coldstart.data.dataset import part_path
from coldstart.data.schema import QUARANTINE


class Quarantine:
    """Rejected and merged rows of all tables; raises an error if too many rows of a table are rejected.

    A merged impression is not a rejected row: its click is in the dataset.

    Args:
        max_rejected_fraction: Maximum fraction of a table's rows.
        on_failure: Directory in which the rejected rows are written if there are too many; None to write nothing.
    """

    def __init__(self, max_rejected_fraction: float, on_failure: Path | None = None) -> None:
        self._max_rejected_fraction = max_rejected_fraction
        self._on_failure = on_failure
        self._rows = QUARANTINE.empty_table()

    def add(
        self, table: str, rows: pa.Table, total: int, explain: Callable[[str, list[str]], str] | None = None
    ) -> None:
        """Adds the rows that have a reason.

        Args:
            table: Name of the table.
            rows: Some of its rows: row, key, reason, and any others.
            total: Number of rows of the table.
            explain: Maps a reason and the `value`s of its rows to examples, cause and fix for the error message.

        Raises:
            UserError: more than the allowed fraction of the table's rows is rejected.
        """
        bad = rows.filter(pc.field("reason").is_valid())
        names = pa.array([table] * len(bad), pa.string())
        values = bad.select(["reason", "value"]) if explain else None
        bad = bad.select(["row", "key", "reason"]).add_column(0, "table", names).cast(QUARANTINE)
        self._rows = pa.concat_tables([self._rows, bad])
        rejected = (pc.field("table") == table) & (pc.field("reason") != MERGED_EVENT)
        count = pc.count_distinct(self._rows.filter(rejected)["row"]).as_py()
        if count > self._max_rejected_fraction * total:
            where = ""
            if self._on_failure is not None:
                self._on_failure.mkdir()
                self.write(self._on_failure)
                where = f". All rejected rows: {self._on_failure}"
            reason, most = next(one for one in self.reasons(table).items() if one[0] != MERGED_EVENT)
            evidence = ""
            if explain and values is not None:
                of_reason = values.filter(pc.field("reason") == reason)["value"].drop_null().to_pylist()
                evidence = explain(reason, of_reason)
            raise UserError(
                f"{count} of {total} rows of the {table} table were rejected, but data.max_rejected_fraction is "
                f"{self._max_rejected_fraction:g}; most frequent reason ({most} rows): {reason}"
                f"{evidence and '; ' + evidence}{where}"
            )

    def first_of_each(
        self,
        rows: pa.Table,
        name: str,
        reasons: tuple[str, str],
        table: str,
        explain: Callable[[str, list[str]], str] | None = None,
    ) -> pa.Table:
        """The first row of every id, ordered by id; adds the rows that repeat an id and those that have a reason.

        Args:
            rows: All rows of the table: row, key, reason, digest, the id, and any others.
            name: Name of the id column.
            reasons: Reason for rows that repeat an id with equal values (digest), and with other values.
            table: Name of the table.
            explain: As for `add`.

        Raises:
            UserError: more than the allowed fraction of the table's rows is rejected.
        """
        valid = rows.filter(pc.field(name).is_valid()).sort_by([(name, "ascending"), ("row", "ascending")])
        ids = np.asarray(valid[name], object)
        first = np.ones(len(ids), bool)
        first[1:] = ids[1:] != ids[:-1]
        digest = np.asarray(valid["digest"])
        origin = np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))
        reason = np.where(digest == digest[origin], *reasons)
        repeats = valid.set_column(valid.column_names.index("reason"), "reason", pa.array(reason, pa.string()))
        repeats = repeats.filter(pa.array(~first))
        self.add(table, pa.concat_tables([rows, repeats]), len(rows), explain)
        return valid.filter(pa.array(first))

    @property
    def rows(self) -> pa.Table:
        """All rows, with the columns of QUARANTINE."""
        return self._rows

    def reasons(self, table: str) -> dict[str, int]:
        """Reason -> number of rows, most frequent first."""
        counts = Counter(self._rows.filter(pc.field("table") == table)["reason"].to_pylist())
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def write(self, directory: Path) -> None:
        """Writes all rows, ordered by table and row."""
        order = [(name, "ascending") for name in ("table", "row", "reason")]
        pq.write_table(self._rows.sort_by(order), part_path(directory, 0))
