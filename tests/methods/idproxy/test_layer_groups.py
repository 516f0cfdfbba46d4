import numpy as np
import pytest

from coldstart.methods.idproxy.layer_groups import group_layers, linear_cka


def blocks(*sizes: int, noise: float = 0.1) -> np.ndarray:
    """Item matrices [60, layers, 16]; layers of a block are rotations of one matrix, plus noise."""
    rng = np.random.default_rng(0)
    layers = []
    for size in sizes:
        shared = rng.normal(size=(60, 16))
        for _ in range(size):
            rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0]
            layers.append((shared + noise * rng.normal(size=shared.shape)) @ rotation)
    return np.stack(layers, axis=1)


def test_cka_ignores_rotation_scale_and_shift_and_is_small_for_independent_layers():
    same = blocks(2, noise=0)
    same[:, 1] = 3 * same[:, 1] + 5
    assert linear_cka(same)[0, 1] == pytest.approx(1)
    assert linear_cka(blocks(1, 1))[0, 1] < 0.5


def test_each_true_block_gives_one_layer_from_shallow_to_deep():
    chosen = [layer for (layer,) in group_layers(blocks(3, 4, 2), 3)]
    assert chosen == sorted(chosen)
    assert [sum(layer >= start for start in (3, 7)) for layer in chosen] == [0, 1, 2]


def test_the_least_noisy_layer_represents_its_group():
    means = blocks(3, 3)
    rng = np.random.default_rng(1)
    for layer in (0, 2, 3, 4):
        means[:, layer] += rng.normal(size=means[:, layer].shape)
    assert group_layers(means, 2) == [[1], [5]]


def test_one_group_per_layer_keeps_all_layers():
    assert group_layers(blocks(1, 1, 1), 3) == [[0], [1], [2]]


def test_reduction_mean_keeps_all_layers_of_a_group():
    assert group_layers(blocks(3, 4, 2), 3, reduction="mean") == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]
