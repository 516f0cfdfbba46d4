"""Compares the proxies of items with the ID rows that the next ranker learned for them.

The ID spaces of two rankers differ at least by a rotation. So the new space is first rotated onto the old one, using
the items that have a row in both (orthogonal Procrustes; Schoenemann, 1966).
Legend: `n` items, `d` ID width.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from coldstart.rankers import load_id_embeddings
from coldstart.rankers.storage import read_item_index
from coldstart.registry import Release
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.stats_schemas import ProxyQuality

Rows = NDArray[np.float64]


def proxy_quality(before: Release, after: Release, store: ProxyStore) -> ProxyQuality | None:
    """Compares the proxies of items with the ID rows that the items have gained.

    Args:
        before: The release that was served until now.
        after: The release that is served from now on.
        store: Proxies of `before`.

    Returns:
        `None` if the widths differ, no item has gained an ID row, or fewer than `d` items have a row in both.
    """
    old, new = _trained_rows(before), _trained_rows(after)
    shared = sorted(old.keys() & new.keys())
    index = read_item_index(before.ranker.path)
    store.catch_up()
    proxies = {item_id: store.proxy(item_id, index.get(item_id, 0)) for item_id in new.keys() - old.keys()}
    gained = sorted(item_id for item_id, proxy in proxies.items() if proxy is not None)
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


def _trained_rows(release: Release) -> dict[str, Rows]:
    embeddings = load_id_embeddings(release.ranker.path)
    rows, trained = embeddings.rows.double().numpy(), embeddings.trained.numpy()
    return {item_id: rows[index] for item_id, index in read_item_index(release.ranker.path).items() if trained[index]}


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
