import numpy as np
import torch

from coldstart.methods.baselines.content_to_id_regression import best_content_to_id_regression

ITEMS = 200


def catalog(noise=0.0):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(ITEMS + 1, 2, 5, generator=generator)
    weights = torch.randn(10, 4, generator=generator)
    rows = states.flatten(1) @ weights + 7 + noise * torch.randn(ITEMS + 1, 4, generator=generator)
    mature = np.arange(ITEMS + 1) < 150
    return states, rows, mature


def test_rows_of_unseen_items_are_predicted_from_content():
    states, rows, mature = catalog(noise=0.1)
    predicted = best_content_to_id_regression(states, rows, mature, seed=0)
    assert predicted.shape == rows.shape
    assert torch.equal(predicted[0], rows[0])
    error = (predicted[150:] - rows[150:]).square().mean()
    assert error < 0.05 * (rows[150:] - rows.mean(0)).square().mean()


def test_rows_of_immature_items_are_never_used():
    states, rows, mature = catalog()
    other = rows.clone()
    other[150:] = 1e6
    assert torch.equal(
        best_content_to_id_regression(states, rows, mature, seed=0),
        best_content_to_id_regression(states, other, mature, seed=0),
    )


def test_uninformative_content_predicts_about_the_mean_row():
    states, _, mature = catalog()
    rows = torch.randn(ITEMS + 1, 4, generator=torch.Generator().manual_seed(9))
    predicted = best_content_to_id_regression(states, rows, mature, seed=0)
    assert predicted[1:].std(0).max() < 0.5


def test_too_few_mature_items_keep_the_oov_row():
    states, rows, _ = catalog()
    predicted = best_content_to_id_regression(states, rows, np.arange(ITEMS + 1) < 5, seed=0)
    assert torch.equal(predicted, rows[:1].expand_as(rows))
