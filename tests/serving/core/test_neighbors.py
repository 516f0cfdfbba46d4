import numpy as np
import pytest

from coldstart.serving.core.neighbors import NeighborIndex


@pytest.mark.parametrize(("ann_min_items", "search"), [(10_000, "exact"), (1, "index")])
def test_nearest_items_by_cosine(tmp_path, ann_min_items, search):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    names = [f"item-{number}" for number in range(300)]
    NeighborIndex(tmp_path, ann_min_items).write(names, rows)
    mature = NeighborIndex(tmp_path, ann_min_items)
    query = 3 * rows[7] + 0.1
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosines)
    found, how = mature.nearest(query, 5, lambda name: name == names[best[1]])
    assert how == search
    assert [name for name, _ in found] == [names[best[place]] for place in (0, 2, 3, 4, 5)]
    assert found[0][1] == pytest.approx(cosines[best[0]], abs=1e-5)
    # Nearly all items are skipped, and fewer than k remain.
    kept = set(names[:3])
    assert {name for name, _ in mature.nearest(query, 50, lambda name: name not in kept)[0]} == kept
