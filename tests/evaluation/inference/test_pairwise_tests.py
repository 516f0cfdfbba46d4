import dataclasses

import numpy as np
import pytest

from coldstart.evaluation.inference.intervals import holm, minimum_detectable_effect
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.summary import Summary
from tests.evaluation.rows import summary_of


def _find(summary: Summary, variant: str, against: str, slice_name: str, metric: str = "gauc_item") -> dict:
    keys = {"variant": variant, "against": against, "slice": slice_name, "metric": metric}
    return next(entry for entry in summary["comparisons"] if keys.items() <= entry.items())


def test_holm_corrects_by_rank() -> None:
    """Holm (1979), by hand: factors 4, 3, 2 and 1, and never below an earlier p-value."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_comparisons_with_the_same_variant_are_one_family(summary: Summary) -> None:
    for slice_name in ("cold", "warm"):
        family = [
            entry
            for entry in summary["comparisons"]
            if (entry["slice"], entry["against"], entry["metric"]) == (slice_name, "oov", "gauc_item")
        ]
        assert [entry["variant"] for entry in family] == ["id", "content_map", "coarse", "fine"]
        p = np.array([entry["p"] for entry in family], float)
        np.testing.assert_allclose(np.array([entry["p_holm"] for entry in family], float), holm(p))


def test_a_comparison_is_the_paired_difference_of_the_metrics(summary: Summary) -> None:
    found = _find(summary, "fine", "content_map", "cold")
    metrics, delta = summary["metrics"], summary["delta_item_vs_oov"]["fine"]["cold"]
    assert found["delta"] == pytest.approx(
        metrics["fine"]["cold"]["gauc_item"] - metrics["content_map"]["cold"]["gauc_item"]
    )
    for sides in ("", "_items", "_both"):
        assert found[f"low{sides}"] < found["delta"] < found[f"high{sides}"]
    against_oov = _find(summary, "fine", "oov", "cold")
    assert (against_oov["low"], against_oov["high"]) == (delta["low"], delta["high"])
    assert found["p"] < 0.001


def test_variants_with_equal_scores_have_no_p_value(summary: Summary) -> None:
    found = _find(summary, "id", "oov", "cold")
    assert (found["delta"], found["p"], found["p_holm"], found["mde"]) == (0.0, None, None, None)


def test_a_null_result_has_a_small_minimum_detectable_effect(rows: ScoredRows) -> None:
    noise = np.random.default_rng(5).normal(0, 1e-2, len(rows))
    logits = {"oov": rows.logits["oov"], "coarse": rows.logits["fine"], "fine": rows.logits["fine"] + noise}
    logits["content_map"] = rows.logits["fine"]
    found = _find(
        summary_of(dataclasses.replace(rows, logits=logits, item_effect={}), num_resamples=400),
        "fine",
        "content_map",
        "cold",
    )
    assert found["p"] > 0.05
    assert abs(found["delta"]) < found["mde"] < 0.01


def test_the_minimum_detectable_effect_is_detected_with_80_percent_power() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 0.02, 4000)
    smallest = minimum_detectable_effect(draws, confidence=0.95)
    estimates = rng.normal(smallest, 0.02, 20_000)
    assert np.mean(np.abs(estimates) > 1.96 * 0.02) == pytest.approx(0.8, abs=0.02)
