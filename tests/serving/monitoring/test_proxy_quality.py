from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from coldstart.config import Artifact
from coldstart.rankers import DinDcn, load_id_embeddings, save_ranker
from coldstart.registry import Release
from coldstart.serving.monitoring.proxy_quality import aligned_cosine, proxy_quality
from coldstart.serving.store.item_store import ItemStore
from tests.serving.tiny import PROXY_COLUMNS, proxy_rows, tiny_recipe

ITEMS = 40
IDS = [f"film-{index}" for index in range(1, ITEMS + 1)]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_rotation_of_the_space_does_not_matter():
    rng = np.random.default_rng(0)
    old, later = unit(rng.normal(size=(60, 8))), unit(rng.normal(size=(30, 8)))
    rotation = ortho_group.rvs(8, random_state=1)
    found = aligned_cosine(later, later @ rotation, old, old @ rotation, previous="r/1")
    assert (found.items, found.cosine, found.ceiling) == (30, pytest.approx(1), pytest.approx(1))
    assert abs(found.chance) < 0.1


def test_random_proxies_reach_no_more_than_chance():
    rng = np.random.default_rng(0)
    proxies, rows, old = (unit(rng.normal(size=(200, 8))) for _ in range(3))
    found = aligned_cosine(proxies, rows, old, old, previous="r/1")
    assert found.cosine == pytest.approx(found.chance, abs=0.1)


def release(path, version, trained, seed):
    torch.manual_seed(seed)
    ranker = DinDcn(ITEMS + 1, tiny_recipe(path, "quality").ranker)
    ranker.trained[1 : trained + 1] = True
    path.mkdir()
    save_ranker(ranker, path, IDS)
    parts, items = {"ranker": Artifact(path, "ranker", "", {}, {})}, Artifact(path, "item_table", "", {}, {})
    return Release("r", None, "idproxy", {"scorer": version}, "d" * 64, parts, items)


def test_items_that_gained_a_row_are_compared_with_their_proxies(tmp_path):
    before, after = release(tmp_path / "1", 1, 30, 1), release(tmp_path / "2", 2, 36, 1)
    rows = load_id_embeddings(after.paths["ranker"]).rows.numpy()
    store = ItemStore(tmp_path, "a" * 64, PROXY_COLUMNS)
    store.write_catalog(IDS, [proxy_rows(3 * rows)])
    found = proxy_quality(before, after, store)
    assert (found.items, found.previous) == (6, "r-scorer/1")
    assert found.cosine == pytest.approx(1, abs=1e-5)
    assert proxy_quality(after, after, store) is None
    assert proxy_quality(before, replace(after, method="another"), store) is None
    store.close()
