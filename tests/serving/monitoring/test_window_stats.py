import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from coldstart.metrics.clicks import population_stability_index, reliability
from coldstart.serving.monitoring.window_stats import (
    BATCH_SIZE_EDGES,
    LATENCY_EDGES_S,
    SCORE_EDGES,
    QueueDepth,
    SlidingWindowSum,
    bin_counts,
    binned_quantile,
    calibration_sums,
    equal_mass_bins,
    merge,
    reliability_from_sums,
)


def test_a_window_drops_old_values():
    recent = SlidingWindowSum(2, window_s=100.0)
    recent.add(1000.0, np.array([1.0, 10.0]))
    recent.add(1050.0, np.array([2.0, 0.0]))
    assert recent.sums(1050.0).tolist() == [3, 10]
    assert recent.sums(1094.0).tolist() == [3, 10]
    assert recent.sums(1101.0).tolist() == [2, 0]
    assert recent.sums(5000.0).tolist() == [0, 0]
    recent.add(5000.0, np.array([1.0, 1.0]))
    assert recent.sums(5001.0).tolist() == [1, 1]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_binned_quantiles_are_exact_up_to_a_bin(share):
    seconds = np.random.default_rng(0).lognormal(-4, 1, 20_000)
    found = binned_quantile(bin_counts(seconds, LATENCY_EDGES_S), LATENCY_EDGES_S, share)
    assert found == pytest.approx(np.quantile(seconds, share), rel=0.1)


def test_quantiles_without_values_or_beyond_the_bins():
    assert np.isnan(binned_quantile(np.zeros(len(LATENCY_EDGES_S) + 1), LATENCY_EDGES_S, 0.5))
    assert binned_quantile(bin_counts([1e9], LATENCY_EDGES_S), LATENCY_EDGES_S, 0.5) == LATENCY_EDGES_S[-1]


def test_statistics_of_gateways_are_added():
    one, two = {"a": np.ones(2), "b": np.ones(3)}, {"a": np.arange(2.0)}
    total = merge({"x": one, "y": two})
    assert total["a"].tolist() == [1, 2]
    assert total["b"].tolist() == [1, 1, 1]
    assert one["a"].tolist() == [1, 1]


def test_some_statistics_are_merged_by_their_maximum():
    total = merge({"x": {"max|age": np.array([2.0])}, "y": {"max|age": np.array([7.0])}, "z": {"a": np.ones(1)}})
    assert total["max|age"].tolist() == [7]


def test_batch_sizes_fall_into_their_bins():
    assert np.flatnonzero(bin_counts([1], BATCH_SIZE_EDGES)) == 0
    assert bin_counts([3, 4, 5, 128, 129], BATCH_SIZE_EDGES).tolist() == [0, 0, 2, 1, 0, 0, 0, 1, 1]


def test_a_queue_keeps_its_peak_for_a_minute_and_failed_calls_leave_it():
    queue = QueueDepth()
    with queue, queue:
        assert queue.sums().tolist() == [2, 2]
    with pytest.raises(ValueError, match="inside"), queue:
        raise ValueError("inside")
    for _ in range(60):
        assert queue.sums().tolist() == [0, 2]
        queue.tick()
    queue.tick()
    assert queue.sums().tolist() == [0, 0]


def labeled(rows: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    probability = 1 / (1 + np.exp(-rng.normal(-2, 1.2, rows)))
    label = (rng.random(rows) < probability**1.3).astype(np.int64)
    return label, probability


def test_calibration_from_sums_equals_that_from_rows():
    label, probability = labeled()
    sums = calibration_sums(label, probability)
    exact = reliability(label, probability, bins=15)
    assert reliability_from_sums(sums, bins=15).error == pytest.approx(exact.error, abs=0.002)
    assert sums.reshape(3, -1).sum(axis=1) == pytest.approx([len(label), probability.sum(), label.sum()])


def test_calibration_equals_scikit_learn_for_few_distinct_probabilities():
    rng = np.random.default_rng(3)
    values = np.array([0.02, 0.06, 0.15, 0.4, 0.8])
    probability = values[rng.integers(0, 5, 5000)]
    label = (rng.random(5000) < probability * 0.9).astype(np.int64)
    observed, predicted = calibration_curve(label, probability, n_bins=50)
    found = reliability_from_sums(calibration_sums(label, probability), bins=len(SCORE_EDGES) + 1)
    assert found.predicted == pytest.approx(predicted)
    assert found.observed == pytest.approx(observed)
    weights = np.unique(probability, return_counts=True)[1]
    assert found.error == pytest.approx(np.average(np.abs(observed - predicted), weights=weights))


def test_calibration_sums_of_parts_add_up():
    label, probability = labeled(2000)
    parts = calibration_sums(label[:700], probability[:700]) + calibration_sums(label[700:], probability[700:])
    assert parts == pytest.approx(calibration_sums(label, probability))


def test_groups_of_bins_have_about_equal_mass():
    counts = bin_counts(labeled()[1], SCORE_EDGES)
    mass = np.bincount(equal_mass_bins(counts, 10), weights=counts, minlength=10)
    assert (np.abs(mass / counts.sum() - 0.1) < 0.05).all()
    assert equal_mass_bins(np.zeros(5), 10).tolist() == [0] * 5


def test_population_stability_index_of_equal_and_shifted_distributions():
    assert population_stability_index(np.array([10.0, 20.0]), np.array([100.0, 200.0])) == pytest.approx(0, abs=1e-3)
    expected, found = np.array([1e6, 3e6]), np.array([3e6, 1e6])
    assert population_stability_index(expected, found) == pytest.approx(2 * 0.5 * np.log(3), rel=1e-4)
    assert np.isfinite(population_stability_index(np.array([5.0, 0.0]), np.array([0.0, 5.0])))
    assert np.isnan(population_stability_index(np.zeros(2), np.ones(2)))
