import subprocess
import sys

import numpy as np
import pytest

from coldstart.serving.proxy_store import ProxyStore


def vector(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def test_published_proxy_is_seen_by_every_replica_at_once(tmp_path):
    one, other = ProxyStore(tmp_path, "a" * 64), ProxyStore(tmp_path, "a" * 64)
    assert other.published() == {}
    one.publish("film", vector(1))
    np.testing.assert_array_equal(other.published()["film"], vector(1))
    other.publish("film", vector(2))
    one.publish("\u00e9t\u00e9 \U0001f3ac", vector(3))
    for store in (one, other):
        np.testing.assert_array_equal(store.published()["film"], vector(2))
        assert len(store.published()) == 2


def test_spaces_never_mix(tmp_path):
    ProxyStore(tmp_path, "a" * 64).publish("film", vector(1))
    assert ProxyStore(tmp_path, "b" * 64).published() == {}


def test_acknowledged_publish_survives_a_process_that_dies(tmp_path):
    program = (
        "import os, sys, numpy as np; from pathlib import Path; from coldstart.serving.proxy_store import ProxyStore; "
        "store = ProxyStore(Path(sys.argv[1]), 'a' * 64); store.publish('film', np.ones(4, np.float32)); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 9
    np.testing.assert_array_equal(ProxyStore(tmp_path, "a" * 64).published()["film"], vector(1))


def test_catalogue_is_written_once_and_mapped(tmp_path):
    store = ProxyStore(tmp_path, "a" * 64)
    store.write_catalogue(iter([np.zeros((2, 4), np.float32), np.ones((3, 4), np.float32)]))
    assert store.catalogue.shape == (5, 4)
    store.write_catalogue(iter([]))
    other = ProxyStore(tmp_path, "a" * 64)
    np.testing.assert_array_equal(other.catalogue[4], vector(1))
    with pytest.raises(ValueError, match="read-only"):
        other.catalogue[0] = 1
