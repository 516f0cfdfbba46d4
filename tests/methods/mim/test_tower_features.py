"""Outputs of frozen towers, computed once, train the same projections as the towers themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.methods.mim.config import FineTune
from coldstart.methods.mim.content_encoder import ContentEncoder
from coldstart.methods.mim.content_training import fine_tune_content
from coldstart.methods.mim.pairs import next_click_pairs
from coldstart.methods.mim.tower_features import TowerFeatures, are_frozen, compute_features
from coldstart.training.contrastive_trainer import ContrastiveContext
from tests.methods.colored_catalog import ITEMS, clicks, contents, create_towers, reader

TUNE = FineTune(epochs=2, batch=16, queue_batches=1, learning_rate=2e-3, holdout_fraction=0.2)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers")
    create_towers(path)
    return path


def frozen_encoder(path: Path) -> ContentEncoder:
    torch.manual_seed(0)
    encoder = ContentEncoder(DualEncoder.load(path))
    encoder.towers.set_trainable("none", "none", field="f")
    return encoder


def test_they_train_what_the_towers_train(path: Path) -> None:
    items = contents()
    items[5], items[6] = contents(images=False)[5], contents(texts=False)[6]
    pairs, curves, states = next_click_pairs(clicks(), window_s=TUNE.window_s), [], []
    for cached in (False, True):
        encoder, read = frozen_encoder(path), reader(items)
        if cached:
            read = compute_features(encoder.towers, ITEMS, read).read
        context = ContrastiveContext(3)
        curves.append(fine_tune_content(encoder, pairs, np.arange(ITEMS + 1), TUNE, read, context))
        states.append(encoder.state_dict())
    for first, second in zip(*curves, strict=True):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


def test_a_trained_layer_is_not_frozen(path: Path) -> None:
    encoder = frozen_encoder(path)
    assert are_frozen(encoder.towers)
    encoder.towers.set_trainable("none", 1, field="f")
    assert not are_frozen(encoder.towers)


def test_saved_rows_are_those_of_each_item(path: Path, tmp_path: Path) -> None:
    found = compute_features(frozen_encoder(path).towers, ITEMS, reader(contents()))
    assert TowerFeatures.load(tmp_path) is None
    found.save(tmp_path)
    loaded = TowerFeatures.load(tmp_path)
    order = np.array([7, 3, 7, 0])
    first, last = list(loaded.read(order, None, 3))
    assert first["item_idx"].tolist() == [7, 3, 7]
    np.testing.assert_array_equal(first["image_features"][0], first["image_features"][2])
    np.testing.assert_array_equal(first["text_features"][1], found.rows["text_features"][3])
    assert not last["has_image"].any()
    assert not any(values[0].any() for values in found.rows.values())
