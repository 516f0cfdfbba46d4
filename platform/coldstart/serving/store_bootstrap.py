"""Fills the proxy store of a release: the proxies of its catalog, and the ID rows of mature items."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from coldstart.alignment import fine_proxies, load_adaptor
from coldstart.config.recipe import Store
from coldstart.encoders import read_proxies
from coldstart.rankers import load_id_embeddings
from coldstart.rankers.storage import read_item_index
from coldstart.registry import Release
from coldstart.serving.proxy_store import ProxyStore, Vectors

_CHUNK = 4096


def bootstrap_store(release: Release, store_dir: Path, settings: Store) -> None:
    """Fills the store of a release, unless it is filled already.

    Args:
        release: From the registry.
        store_dir: Parent directory of all stores.
        settings: `serving.store` of the recipe.
    """
    store = ProxyStore(store_dir, release.adaptor.fingerprint, settings)
    item_ids = list(read_item_index(release.ranker.path))
    store.write_catalog(item_ids, _catalog_proxies(release, len(item_ids)))
    if not store.mature_items.exists:
        ids = load_id_embeddings(release.ranker.path)
        mature = np.flatnonzero(ids.trained.numpy())
        store.mature_items.write([item_ids[index - 1] for index in mature], ids.rows.numpy()[mature])
    store.close()


def _catalog_proxies(release: Release, items: int) -> Iterator[Vectors]:
    """Fine proxies of the catalog by item index, row 0 included."""
    coarse, states = read_proxies(release.proxies.path, items, groups=release.proxies.metadata["groups"])
    adaptor = load_adaptor(release.adaptor.path)
    for first in range(0, len(coarse), _CHUNK):
        part = slice(first, first + _CHUNK)
        yield fine_proxies(adaptor, torch.from_numpy(coarse[part]), torch.from_numpy(states[part])).numpy()
