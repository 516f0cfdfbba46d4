import numpy as np
import torch

from coldstart.modules.similarity_histogram import similarity_histogram, similarity_tiers


def cosines() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(3, 4, 50, generator=generator) - 1, torch.rand(3, 4, 50, generator=generator) < 0.7


def test_counts_are_those_of_numpy_and_their_sum_is_the_valid_length():
    similarity, mask = cosines()
    counts = similarity_histogram(similarity, mask)
    assert torch.equal(counts.sum(-1), mask.sum(-1).float())
    for row in range(3):
        for target in range(4):
            valid = similarity[row, target][mask[row, target]].numpy()
            np.testing.assert_array_equal(counts[row, target], np.histogram(valid, 20, (-1, 1))[0])


def test_the_outer_bins_take_the_limits_and_what_rounding_puts_beyond():
    similarity = torch.tensor([[[-1.0, -1.0000001, 1.0, 1.0000001, 0.0]]])
    counts = similarity_histogram(similarity, torch.ones_like(similarity, dtype=torch.bool), bins=4)
    assert counts[0, 0].tolist() == [2, 0, 1, 2]


def test_tiers_are_the_logarithm_of_one_plus_the_counts():
    similarity, mask = cosines()
    torch.testing.assert_close(similarity_tiers(similarity, mask).expm1(), similarity_histogram(similarity, mask))
    assert similarity_tiers(similarity, torch.zeros_like(mask)).abs().max() == 0
