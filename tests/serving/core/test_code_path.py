import numpy as np

from coldstart.data.item_table import ColumnSpec, row_dtype
from coldstart.serving.core import code_path as module
from coldstart.serving.core.code_path import CodeLevel, code_path

COLUMNS = {"codes": ColumnSpec("int16", (2,)), "content": ColumnSpec("float32", (2,))}
ROWS = np.array(
    [
        ([3, 1], [9, 9]),  # the unknown item
        ([3, 1], [1, 0]),
        ([3, 2], [0, 2]),
        ([4, 1], [1, 1]),
        ([3, 1], [3, 3]),
        ([3, 1], [0, 0]),
    ],
    row_dtype(COLUMNS),
)


def path(codes: list[int], vector: list[float], k: int = 2) -> list[CodeLevel]:
    return code_path(ROWS, "codes", "content", np.array(codes, np.int16), np.array(vector, np.float32), k=k)


def test_each_level_has_the_items_that_share_all_codes_so_far_nearest_first():
    assert path([3, 1], [0, 5], k=9) == [CodeLevel([3], 4, [2, 4, 1, 5]), CodeLevel([3, 1], 3, [4, 1, 5])]
    assert path([3, 1], [0, 5]) == [CodeLevel([3], 4, [2, 4]), CodeLevel([3, 1], 3, [4, 1])]


def test_a_code_that_no_item_has_ends_the_path_without_items():
    assert path([4, 2], [1, 0]) == [CodeLevel([4], 1, [3]), CodeLevel([4, 2], 0, [])]


def test_the_nearest_are_found_among_a_bounded_number(monkeypatch):
    monkeypatch.setattr(module, "MAX_COMPARED", 2)
    assert path([3, 1], [1, 1])[0] == CodeLevel([3], 4, [1, 2])
