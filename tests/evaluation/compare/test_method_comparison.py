import json
from dataclasses import replace

import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.compare.method_comparison import OOV_SUFFIX, compare_methods
from coldstart.evaluation.compare.method_report import (
    comparison_chart,
    comparison_markdown,
    comparison_page,
    comparison_table,
)
from coldstart.evaluation.compare.recommendation import recommend
from coldstart.evaluation.protocol.scored_rows import ScoredRows

ALIKE = 0.02
COST = {"seconds": [2.0, 4.0], "us_per_candidate": 1.25, "ms_per_item": 7.51, "bytes_per_item": 64}
METHODS = ("fine", "joint")
QUICK = Evaluation(num_resamples=200)


def seed_of(rows: ScoredRows, seed: int) -> ScoredRows:
    """The rows with the scores of another training: fine and joint are close to the truth, coarse less so."""
    rng = np.random.default_rng(seed)
    context = rng.normal(0, 0.3, len(rows))
    truth, item_effect = rows.logits["content_oracle"], rows.item_effect["content_oracle"]
    noise = rng.normal(0, 0.7, len(rows))
    seen = {
        "oov": np.zeros(len(rows)),
        "ridge_map": 0.3 * truth + rng.normal(0, 1, len(rows)),
        "coarse": 0.6 * truth + noise,
        "fine": truth + noise,
        "joint": truth + noise + rng.normal(0, ALIKE, len(rows)),
    }
    logits = {name: values + context for name, values in seen.items()}
    logits |= {name + OOV_SUFFIX: context for name in seen}
    shared = {"oov": np.zeros(len(rows)), "coarse": 0.6 * item_effect, "fine": item_effect, "joint": item_effect}
    return replace(rows, logits={**logits, "content_oracle": truth}, item_effect=shared)


@pytest.fixture(scope="module")
def found(rows: ScoredRows) -> dict:
    return compare_methods({seed: seed_of(rows, seed) for seed in (1, 2, 3)}, QUICK, methods=METHODS, seed=0)


def gain(value: float, *, spread: float | None) -> dict:
    return {"value": value, "spread": spread, "ranges": [[value - 0.1, value + 0.1]]}


def pair(found: dict, variant: str, against: str, metric: str = "gauc") -> dict:
    (one,) = [
        each
        for each in found["comparisons"]
        if (each["variant"], each["against"], each["slice"], each["metric"]) == (variant, against, "cold", metric)
    ]
    return one


def test_a_better_variant_is_significant_and_an_equal_one_is_not(found: dict) -> None:
    assert found["seeds"] == [1, 2, 3]
    better, equal = pair(found, "fine", "ridge_map"), pair(found, "joint", "fine")
    assert better["low"] > 0
    assert better["p_holm"] < 0.05
    assert equal["low"] < 0 < equal["high"]
    assert len(better["by_seed"]) == 3


def test_a_method_is_compared_with_baselines_and_with_methods_before_it(found: dict) -> None:
    against = {each["against"] for each in found["comparisons"] if each["variant"] == "fine"}
    assert against == {"oov", "ridge_map", "coarse"}
    assert not [each for each in found["comparisons"] if each["variant"] == "content_oracle"]


def test_the_gap_is_measured_to_the_upper_bound(found: dict) -> None:
    assert found["upper_bound"] == "content_oracle"
    assert found["gap_closed_item"]["content_oracle"]["value"] == pytest.approx(1)
    closed = found["gap_closed_item"]["fine"]
    cold = {name: by_slice["cold"]["gauc_item"]["value"] for name, by_slice in found["metrics"].items()}
    assert cold["oov"] == pytest.approx(0.5)
    assert closed["value"] == pytest.approx((cold["fine"] - 0.5) / (cold["content_oracle"] - 0.5))
    assert closed["low"] < closed["value"] < closed["high"]


def test_part_of_the_gain_is_item_effect(found: dict) -> None:
    assert set(found["item_effect_share"]) == {"coarse", "fine", "joint"}
    assert 0.3 < found["item_effect_share"]["fine"]["value"] < 1


def test_one_seed_has_intervals_over_users_alone(rows: ScoredRows) -> None:
    found = compare_methods({7: seed_of(rows, 7)}, Evaluation(num_resamples=100), methods=METHODS, seed=0)
    fine = found["metrics"]["fine"]["cold"]["gauc"]
    assert fine["spread"] is None
    assert fine["low"] < fine["value"] < fine["high"]


def test_the_page_has_every_variant_and_significant_differences_first(found: dict) -> None:
    summary = {
        **found,
        "descriptions": dict.fromkeys(found["variants"], "something"),
        "tuned": {"fine": {"setting": {"dropout": 0.1}, "parameters": 1234, "valid_gauc": 0.7, **COST}},
        "recommendation": recommend(found, METHODS),
        "modalities": {
            "fine": {name: {"gain": gain(0.1, spread=0.02)} for name in ("both", "image", "text")},
            "joint": {name: {"gain": gain(0.2, spread=None)} for name in ("both", "image", "text")},
        },
    }
    json.dumps(summary, allow_nan=False)
    page = comparison_markdown("mine", summary)
    for name in found["variants"]:
        assert f"| {name} |" in page or f"| **{name}** |" in page
    significant, other = page.index("**fine** against ridge_map"), page.index("**joint** against fine")
    assert significant < other
    assert "not significant" in page[other : other + 120]
    assert "| fine | something | 1,234 | dropout 0.1 | 0.7000 | 3.0 | 1.2 | 7.5 | 64 |" in page
    assert summary["recommendation"]["text"] in page
    over_seeds, over_users = "+0.100 ± 0.020", "+0.200 [+0.100, +0.300]"
    assert f"| fine | {' | '.join([over_seeds] * 3)} |" in page
    assert f"| joint | {' | '.join([over_users] * 3)} |" in page
    html = comparison_page("mine", summary)
    assert "<svg" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert html.count('class="hero"') == 1
    assert html.count(over_seeds) == html.count(over_users) == 3
    table = comparison_table(summary)
    assert table.row_count == len(found["variants"])
    assert len(comparison_chart(summary).axes) == 1


def test_the_recommendation_is_the_best_method_that_is_surely_better(found: dict) -> None:
    advice = recommend(found, METHODS)
    assert advice["reference"] == "coarse"
    assert advice["variant"] in METHODS
    assert advice["text"].startswith(f"Use {advice['variant']}: on cold rows its item GAUC is ")
    assert "above coarse, the best baseline" in advice["text"]
    assert "% of the gap to content_oracle" in advice["text"]
    assert advice["enough_rows"]


def test_seeds_with_own_splits_have_own_users(rows: ScoredRows) -> None:
    half = rows.user_idx % 2 == 0
    parts = {1: seed_of(rows.take(half), 1), 2: seed_of(rows.take(~half), 2)}
    found = compare_methods(parts, QUICK, methods=METHODS, seed=0, own_splits=True)
    better = pair(found, "fine", "ridge_map")
    alone = {
        seed: pair(compare_methods({seed: part}, QUICK, methods=METHODS, seed=0), "fine", "ridge_map")
        for seed, part in parts.items()
    }
    assert better["by_seed"] == [each["delta"] for each in alone.values()]
    assert better["ranges"][0] == [alone[1]["low"], alone[1]["high"]]
    # Two splits are a small sample of all splits.
    assert better["high"] - better["low"] > max(high - low for low, high in better["ranges"])
    shown = {"tuned": {}, "modalities": {}, "descriptions": dict.fromkeys(found["variants"], "")}
    page = comparison_markdown("films", found | shown)
    assert "Image and text" not in page
    assert "each on its own split" in page
    assert page.count("; by split ") == page.count("** against ")
