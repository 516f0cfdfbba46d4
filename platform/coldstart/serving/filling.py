"""What a release brings into its proxy store: proxies of its catalogue, and the ID rows of mature items."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from coldstart.alignment import fine_proxies, load_adaptor
from coldstart.config.recipe import Store
from coldstart.encoders import read_proxies
from coldstart.rankers import load_id_rows
from coldstart.rankers.storage import vocabulary
from coldstart.registry import Release
from coldstart.serving.proxy_store import ProxyStore, Vectors

_CHUNK = 4096


def fill_store(release: Release, store_dir: Path, settings: Store) -> None:
    """Makes the store of a release ready, if it is not.

    Args:
        release: From the registry.
        store_dir: Directory of all stores.
        settings: The recipe's section.
    """
    store = ProxyStore(store_dir, release.adaptor.fingerprint, settings)
    item_ids = list(vocabulary(release.ranker.path))
    store.write_catalogue(item_ids, _catalogue_proxies(release, len(item_ids)))
    if not store.mature.written:
        ids = load_id_rows(release.ranker.path)
        mature = np.flatnonzero(ids.trained.numpy())
        store.mature.write([item_ids[index - 1] for index in mature], ids.rows.numpy()[mature])
    store.close()


def _catalogue_proxies(release: Release, items: int) -> Iterator[Vectors]:
    """Fine proxies of the catalogue by item index, row 0 included."""
    coarse, states = read_proxies(release.proxies.path, items, groups=release.proxies.about["groups"])
    adaptor = load_adaptor(release.adaptor.path)
    for first in range(0, len(coarse), _CHUNK):
        part = slice(first, first + _CHUNK)
        yield fine_proxies(adaptor, torch.from_numpy(coarse[part]), torch.from_numpy(states[part])).numpy()
