from pathlib import Path

import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.encoders.item_embeddings import (
    proxy_table,
    read_proxies,
    read_single_modality,
    single_modality_dir,
    write_proxies,
)


def test_parts_are_read_by_item_index_with_zeros_for_oov(tmp_path: Path):
    rng = np.random.default_rng(0)
    coarse, states = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(5, 2, 4)).astype(np.float32)
    write_proxies(tmp_path, proxy_table(np.array([5, 4]), coarse[[4, 3]], states[[4, 3]]), part=1)
    write_proxies(tmp_path, proxy_table(np.array([1, 2, 3]), coarse[:3], states[:3]))
    read_coarse, read_states = read_proxies(tmp_path, 5, groups=2)
    np.testing.assert_array_equal(read_coarse[1:], coarse)
    np.testing.assert_array_equal(read_states[1:], states)
    assert not read_coarse[0].any()
    assert not read_states[0].any()


def test_another_catalog_is_refused(tmp_path: Path):
    write_proxies(tmp_path, proxy_table(np.array([1, 2]), np.ones((2, 3)), np.ones((2, 1, 4))))
    with pytest.raises(UserError, match="proxies of 2 items but the dataset has 3"):
        read_proxies(tmp_path, 3, groups=1)


def test_single_modality_proxies_are_stored_separately(tmp_path: Path):
    rng = np.random.default_rng(0)
    coarse, states = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(3, 2, 4)).astype(np.float32)
    text_dir = single_modality_dir(tmp_path, "text")
    write_proxies(text_dir, proxy_table(np.array([900]), coarse[2:], states[2:]), part=1)
    write_proxies(text_dir, proxy_table(np.array([7, 3]), coarse[[1, 0]], states[[1, 0]]))
    found = read_single_modality(tmp_path, "text", groups=2)
    assert found is not None
    assert found[0].tolist() == [3, 7, 900]
    np.testing.assert_array_equal(found[1], coarse)
    np.testing.assert_array_equal(found[2], states)
    assert read_single_modality(tmp_path, "image", groups=2) is None
