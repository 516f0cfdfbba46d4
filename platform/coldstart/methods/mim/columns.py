"""The column of the item table that MIM's encoder writes and its scorer reads."""

from coldstart.data.item_table import ColumnSpec, ColumnSpecs

CONTENT = "content"


def content_column(width: int) -> ColumnSpecs:
    """`content` `[k]`: the fused vector of unit norm, zeros for an item without content."""
    return {CONTENT: ColumnSpec("float32", (width,))}
