import numpy as np
import torch

from coldstart.alignment.content_map import fit_content_map

ITEMS = 200


def catalogue(noise=0.0):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(ITEMS + 1, 2, 5, generator=generator)
    weights = torch.randn(10, 4, generator=generator)
    rows = states.flatten(1) @ weights + 7 + noise * torch.randn(ITEMS + 1, 4, generator=generator)
    mature = np.arange(ITEMS + 1) < 150
    return states, rows, mature


def test_rows_of_unseen_items_are_found_from_content():
    states, rows, mature = catalogue(noise=0.1)
    predicted = fit_content_map(states, rows, mature, seed=0)
    assert predicted.shape == rows.shape
    assert torch.equal(predicted[0], rows[0])
    error = (predicted[150:] - rows[150:]).square().mean()
    assert error < 0.05 * (rows[150:] - rows.mean(0)).square().mean()


def test_rows_that_are_not_mature_are_never_looked_at():
    states, rows, mature = catalogue()
    other = rows.clone()
    other[150:] = 1e6
    assert torch.equal(fit_content_map(states, rows, mature, seed=0), fit_content_map(states, other, mature, seed=0))


def test_content_that_says_nothing_gives_about_the_mean_row():
    states, _, mature = catalogue()
    rows = torch.randn(ITEMS + 1, 4, generator=torch.Generator().manual_seed(9))
    predicted = fit_content_map(states, rows, mature, seed=0)
    assert predicted[1:].std(0).max() < 0.5


def test_too_few_mature_items_keep_the_oov_row():
    states, rows, _ = catalogue()
    predicted = fit_content_map(states, rows, np.arange(ITEMS + 1) < 5, seed=0)
    assert torch.equal(predicted, rows[:1].expand_as(rows))
