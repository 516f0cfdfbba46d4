import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from coldstart.evaluation.metrics import reliability, stability
from coldstart.serving.figures import (
    PROBABILITIES,
    SECONDS,
    SIZES,
    Depth,
    Recent,
    added,
    binned,
    calibration_sums,
    equal_mass,
    quantile,
    reliability_of,
)


def test_a_window_forgets():
    recent = Recent(2, window_s=100.0)
    recent.add(1000.0, np.array([1.0, 10.0]))
    recent.add(1050.0, np.array([2.0, 0.0]))
    assert recent.sums(1050.0).tolist() == [3, 10]
    assert recent.sums(1094.0).tolist() == [3, 10]
    assert recent.sums(1101.0).tolist() == [2, 0]
    assert recent.sums(5000.0).tolist() == [0, 0]
    recent.add(5000.0, np.array([1.0, 1.0]))
    assert recent.sums(5001.0).tolist() == [1, 1]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_of_bins_are_those_of_the_values_within_a_bin(share):
    seconds = np.random.default_rng(0).lognormal(-4, 1, 20_000)
    found = quantile(binned(seconds, SECONDS), SECONDS, share)
    assert found == pytest.approx(np.quantile(seconds, share), rel=0.1)


def test_nothing_has_no_quantile_and_what_lies_beyond_the_bins_is_bounded():
    assert np.isnan(quantile(np.zeros(len(SECONDS) + 1), SECONDS, 0.5))
    assert quantile(binned([1e9], SECONDS), SECONDS, 0.5) == SECONDS[-1]


def test_figures_of_gateways_add_up():
    one, two = {"a": np.ones(2), "b": np.ones(3)}, {"a": np.arange(2.0)}
    total = added({"x": one, "y": two})
    assert total["a"].tolist() == [1, 2]
    assert total["b"].tolist() == [1, 1, 1]
    assert one["a"].tolist() == [1, 1]


def test_of_some_figures_the_largest_counts():
    total = added({"x": {"most|age": np.array([2.0])}, "y": {"most|age": np.array([7.0])}, "z": {"a": np.ones(1)}})
    assert total["most|age"].tolist() == [7]


def test_a_batch_size_has_the_bin_that_names_it():
    assert np.flatnonzero(binned([1], SIZES)) == 0
    assert binned([3, 4, 5, 128, 129], SIZES).tolist() == [0, 0, 2, 1, 0, 0, 0, 1, 1]


def test_a_queue_remembers_its_peak_for_a_minute_and_a_failure_leaves_it():
    queue = Depth()
    with queue, queue:
        assert queue.sums().tolist() == [2, 2]
    with pytest.raises(ValueError, match="inside"), queue:
        raise ValueError("inside")
    for _ in range(60):
        assert queue.sums().tolist() == [0, 2]
        queue.turn()
    queue.turn()
    assert queue.sums().tolist() == [0, 0]


def labelled(rows: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    probability = 1 / (1 + np.exp(-rng.normal(-2, 1.2, rows)))
    label = (rng.random(rows) < probability**1.3).astype(np.int64)
    return label, probability


def test_calibration_from_sums_is_that_of_the_rows():
    label, probability = labelled()
    sums = calibration_sums(label, probability)
    exact = reliability(label, probability, bins=15)
    assert reliability_of(sums, bins=15).error == pytest.approx(exact.error, abs=0.002)
    assert sums.reshape(3, -1).sum(axis=1) == pytest.approx([len(label), probability.sum(), label.sum()])


def test_calibration_equals_scikit_learn_where_probabilities_fall_on_few_values():
    rng = np.random.default_rng(3)
    values = np.array([0.02, 0.06, 0.15, 0.4, 0.8])
    probability = values[rng.integers(0, 5, 5000)]
    label = (rng.random(5000) < probability * 0.9).astype(np.int64)
    observed, predicted = calibration_curve(label, probability, n_bins=50)
    found = reliability_of(calibration_sums(label, probability), bins=len(PROBABILITIES) + 1)
    assert found.predicted == pytest.approx(predicted)
    assert found.observed == pytest.approx(observed)
    weights = np.unique(probability, return_counts=True)[1]
    assert found.error == pytest.approx(np.average(np.abs(observed - predicted), weights=weights))


def test_parts_of_calibration_add_up_to_the_whole():
    label, probability = labelled(2000)
    parts = calibration_sums(label[:700], probability[:700]) + calibration_sums(label[700:], probability[700:])
    assert parts == pytest.approx(calibration_sums(label, probability))


def test_groups_of_bins_are_about_equally_heavy():
    counts = binned(labelled()[1], PROBABILITIES)
    mass = np.bincount(equal_mass(counts, 10), weights=counts, minlength=10)
    assert (np.abs(mass / counts.sum() - 0.1) < 0.05).all()
    assert equal_mass(np.zeros(5), 10).tolist() == [0] * 5


def test_stability_of_the_same_is_nothing_and_of_a_shift_is_what_the_formula_says():
    assert stability(np.array([10.0, 20.0]), np.array([100.0, 200.0])) == pytest.approx(0, abs=1e-3)
    expected, found = np.array([1e6, 3e6]), np.array([3e6, 1e6])
    assert stability(expected, found) == pytest.approx(2 * 0.5 * np.log(3), rel=1e-4)
    assert np.isfinite(stability(np.array([5.0, 0.0]), np.array([0.0, 5.0])))
    assert np.isnan(stability(np.zeros(2), np.ones(2)))
