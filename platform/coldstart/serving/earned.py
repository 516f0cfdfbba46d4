"""How near a proxy came to the ID row its item earned later, found out when the next ranker is served.

Two rankers learn their ID rows in spaces that differ by a rotation at least, so the new rows are first turned onto the
old ones by the items that have a row in both (orthogonal Procrustes; Schoenemann, 1966).
Legend: `n` items, `d` ID width.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from coldstart.rankers import load_id_rows
from coldstart.rankers.storage import vocabulary
from coldstart.registry import Release
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.watch_answers import Earned

Rows = NDArray[np.float64]


def earned(before: Release, after: Release, store: ProxyStore) -> Earned | None:
    """Compares the proxies that stood in for items with the rows they have now.

    Args:
        before: Served until now.
        after: Served from now on.
        store: Proxies of `before`.

    Returns:
        `None` if the widths differ, no item has earned a row, or fewer items than `d` have one in both.
    """
    old, new = _trained_rows(before), _trained_rows(after)
    shared = sorted(old.keys() & new.keys())
    index = vocabulary(before.ranker.path)
    store.catch_up()
    proxies = {item_id: store.proxy(item_id, index.get(item_id, 0)) for item_id in new.keys() - old.keys()}
    graduates = sorted(item_id for item_id, proxy in proxies.items() if proxy is not None)
    if not graduates or not shared or not len(shared) >= len(old[shared[0]]) == len(new[shared[0]]):
        return None
    stood = _unit(np.array([proxies[item_id] for item_id in graduates], np.float64))
    return compare(
        stood,
        _unit(np.array([new[item_id] for item_id in graduates])),
        _unit(np.array([old[item_id] for item_id in shared])),
        _unit(np.array([new[item_id] for item_id in shared])),
        before=before.name,
    )


def compare(proxies: Rows, rows: Rows, old: Rows, new: Rows, *, before: str) -> Earned:
    """Cosines of unit vectors: `proxies` and `rows` [n, d] of the same items, `old` and `new` [m, d] of the same items.

    `chance` is the mean over all pairs of a proxy and another item's row.
    """
    turn, _ = orthogonal_procrustes(new, old)
    turned = rows @ turn
    own = (proxies * turned).sum(axis=1)
    n = len(proxies)
    others = proxies.sum(axis=0) @ turned.sum(axis=0) - own.sum()
    return Earned(
        items=n,
        cosine=float(own.mean()),
        ceiling=float((old * (new @ turn)).sum(axis=1).mean()),
        chance=float(others / (n * (n - 1))) if n > 1 else 0.0,
        before=before,
    )


def _trained_rows(release: Release) -> dict[str, Rows]:
    known = load_id_rows(release.ranker.path)
    rows, trained = known.rows.double().numpy(), known.trained.numpy()
    return {item_id: rows[place] for item_id, place in vocabulary(release.ranker.path).items() if trained[place]}


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
