"""Compares the neighbor column of items with the vectors that the next release has learned for them.

In IDProxy, these are proxies and ID rows.

The ID spaces of two rankers differ at least by a rotation. So the new space is first rotated onto the old one, using
the items that have a row in both (orthogonal Procrustes; Schoenemann, 1966).
Legend: `n` items, `d` width.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from coldstart.methods.available import find_method
from coldstart.rankers.storage import read_item_index
from coldstart.registry import Release
from coldstart.serving.monitoring.stats_schemas import ProxyQuality
from coldstart.serving.store.item_store import ItemStore

Rows = NDArray[np.float64]


def proxy_quality(before: Release, after: Release, store: ItemStore) -> ProxyQuality | None:
    """Compares the proxies of items with the ID rows that the items have gained.

    Args:
        before: The release that was served until now.
        after: The release that is served from now on.
        store: Item rows of `before`.

    Returns:
        `None` if the methods or the widths differ, no item has gained a vector, or fewer than `d`
        items have one in both.
    """
    if before.method != after.method:
        return None
    method = find_method(before.method)
    old, new = _learned_vectors(before), _learned_vectors(after)
    shared = sorted(old.keys() & new.keys())
    index = read_item_index(method.catalog_dir(before.paths))
    store.catch_up()
    rows = {item_id: store.row(item_id, index.get(item_id, 0)) for item_id in new.keys() - old.keys()}
    column = method.neighbor_column(before.paths)
    proxies = {item_id: row[column].ravel() for item_id, row in rows.items() if row is not None}
    gained = sorted(proxies)
    if not gained or not shared or not len(shared) >= len(old[shared[0]]) == len(new[shared[0]]):
        return None
    return aligned_cosine(
        _unit(np.array([proxies[item_id] for item_id in gained], np.float64)),
        _unit(np.array([new[item_id] for item_id in gained])),
        _unit(np.array([old[item_id] for item_id in shared])),
        _unit(np.array([new[item_id] for item_id in shared])),
        previous=before.name,
    )


def aligned_cosine(proxies: Rows, rows: Rows, old: Rows, new: Rows, *, previous: str) -> ProxyQuality:
    """Rotates the new ID space onto the old one and compares proxies with the rotated rows.

    Args:
        proxies: [n, d] unit vectors.
        rows: [n, d] unit ID rows of the same items in the new space.
        old: [m, d] unit ID rows in the old space.
        new: [m, d] unit ID rows of the same items in the new space.
        previous: Name of the release that the proxies belong to.
    """
    rotation, _ = orthogonal_procrustes(new, old)
    rotated = rows @ rotation
    own = (proxies * rotated).sum(axis=1)
    n = len(proxies)
    others = proxies.sum(axis=0) @ rotated.sum(axis=0) - own.sum()
    return ProxyQuality(
        items=n,
        cosine=float(own.mean()),
        ceiling=float((old * (new @ rotation)).sum(axis=1).mean()),
        chance=float(others / (n * (n - 1))) if n > 1 else 0.0,
        previous=previous,
    )


def _learned_vectors(release: Release) -> dict[str, Rows]:
    method = find_method(release.method)
    item_ids = list(read_item_index(method.catalog_dir(release.paths)))
    index, vectors = method.neighbor_rows(release.paths)
    return {item_ids[item - 1]: vector for item, vector in zip(index, vectors.astype(np.float64), strict=True)}


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
