import pytest

from coldstart.evaluation.compare.recommendation import WORTHWHILE, recommend


def summary(values: dict[str, float | None], tests: dict[tuple[str, str], tuple[float, float, float]]) -> dict:
    """Item GAUC of cold rows by variant; (variant, against) -> difference, corrected p, minimum detectable effect."""
    return {
        "metrics": {name: {"cold": {"gauc_item": {"value": value}}} for name, value in values.items()},
        "comparisons": [
            {
                "variant": variant,
                "against": against,
                "slice": "cold",
                "metric": "gauc_item",
                "delta": delta,
                "low": delta - mde,
                "high": delta + mde,
                "p_holm": p,
                "mde": mde,
            }
            for (variant, against), (delta, p, mde) in tests.items()
        ],
        "upper_bound": None,
        "item_effect_share": {},
        "confidence": 0.95,
    }


def advice(fine, joint=(-0.05, 0.9, 0.005), ridge=(0.1, 0.001, 0.005)) -> dict:
    tests = {("fine", "ridge"): fine, ("joint", "ridge"): joint, ("ridge", "oov"): ridge}
    values = {"oov": 0.5, "ridge": 0.5 + ridge[0], "fine": 0.5 + ridge[0] + fine[0], "joint": 0.5 + ridge[0] + joint[0]}
    return recommend(summary({**values, "oracle": 0.9}, tests), ("fine", "joint"))


def test_a_method_that_is_surely_better_is_used():
    found = advice(fine=(0.03, 0.01, 0.005))
    assert (found["variant"], found["reference"], found["enough_rows"]) == ("fine", "ridge", True)
    gain = "+0.030 [+0.025, +0.035] above ridge, the best baseline."
    assert found["text"].startswith(f"Use fine: on cold rows its item GAUC is 0.630, {gain}")


def test_of_two_methods_that_are_surely_better_the_better_one_is_used():
    assert advice(fine=(0.03, 0.01, 0.005), joint=(0.04, 0.01, 0.005))["variant"] == "joint"
    assert advice(fine=(0.03, 0.01, 0.005), joint=(0.04, 0.06, 0.005))["variant"] == "fine"


def test_a_method_that_is_surely_worse_is_not_used():
    found = advice(fine=(-0.03, 0.001, 0.005))
    assert found["variant"] == "ridge"
    assert "no method is surely better. The rows would have shown a difference of 0.005" in found["text"]
    assert found["enough_rows"]


def test_without_a_surely_better_method_the_best_baseline_is_used():
    assert advice(fine=(0.004, 0.051, 0.005))["variant"] == "ridge"
    assert advice(fine=(0.004, 0.049, 0.005))["variant"] == "fine"


def test_too_few_rows_are_named_with_the_least_effect_that_they_show():
    found = advice(fine=(0.02, 0.3, 0.04), joint=(0.01, 0.3, 2 * WORTHWHILE))
    assert (found["variant"], found["enough_rows"]) == ("ridge", False)
    assert "too few rows to tell: it can detect differences from 0.020 on only" in found["text"]


def test_nothing_better_than_oov_keeps_the_ranker():
    found = advice(fine=(0.001, 0.9, 0.005), ridge=(0.002, 0.4, 0.006))
    assert (found["variant"], found["enough_rows"]) == ("oov", True)
    assert found["text"].startswith("Keep the ranker as it is")
    found = advice(fine=(0.001, 0.9, 0.005), ridge=(0.02, 0.4, 0.05))
    assert (found["variant"], found["enough_rows"]) == ("oov", False)
    assert "from 0.050 on" in found["text"]


@pytest.mark.parametrize("values", [{"oov": None, "fine": None}, {}])
def test_without_cold_rows_nothing_is_recommended(values):
    found = recommend(summary(values, {}), ("fine",))
    assert (found["variant"], found["enough_rows"]) == ("oov", False)
    assert "no cold rows" in found["text"]


def test_baselines_alone():
    found = recommend(summary({"oov": 0.5, "ridge": 0.6}, {("ridge", "oov"): (0.1, 0.01, 0.005)}), ())
    assert found["variant"] == "ridge"
    assert "No method was compared with it." in found["text"]
