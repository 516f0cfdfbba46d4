"""Items of the catalog that share the first codes of a semantic ID, level by level.

Legend: `N` items of the catalog, `Lq` levels, `w` width of the vectors that are compared.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coldstart.data.item_table import Rows
from coldstart.serving.core.neighbors import Vectors

MAX_COMPARED = 4096
"""Items of a level among which the nearest are found."""


@dataclass(frozen=True)
class CodeLevel:
    """The items that share the codes up to one level.

    Attributes:
        codes: The shared codes.
        items: Number of the items.
        nearest: Catalog indices of those nearest by content, best first.
    """

    codes: list[int]
    items: int
    nearest: list[int]


def code_path(
    rows: Rows, code_column: str, vector_column: str, codes: npt.NDArray[np.integer[Any]], vector: Vectors, *, k: int
) -> list[CodeLevel]:
    """The levels of an item's semantic ID.

    Args:
        rows: [N + 1] of the catalog; row 0 is the unknown item, which is left out.
        code_column: Column of the rows with codes `[Lq]`.
        vector_column: Column with the vectors that are compared.
        codes: [Lq] of the item.
        vector: [w] of the item, need not be normalized.
        k: Maximum number of nearest items per level.
    """
    table, unit = rows[code_column], vector / max(float(np.linalg.norm(vector)), 1e-12)
    members = np.arange(1, len(rows))
    found = []
    for level, code in enumerate(codes.tolist()):
        members = members[table[members, level] == code]
        some = members[:MAX_COMPARED]
        vectors = rows[vector_column][some].reshape(len(some), len(unit)).astype(np.float32)
        cosine = vectors @ unit / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
        nearest = some[np.argsort(-cosine, kind="stable")[:k]]
        found.append(CodeLevel(codes[: level + 1].tolist(), len(members), nearest.tolist()))
    return found
