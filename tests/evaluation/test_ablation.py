import json
from dataclasses import replace

import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.ablation import CONTEXT, ablation
from coldstart.evaluation.ablation_page import ablation_chart, ablation_markdown
from coldstart.evaluation.scored_rows import ScoredRows

ALIKE = 0.02


def seed_of(rows: ScoredRows, seed: int) -> ScoredRows:
    """The rows as another training scores them: fine sees the truth, joint as much, coarse less."""
    rng = np.random.default_rng(seed)
    context = rng.normal(0, 0.3, len(rows))
    truth, appeal = rows.logits["content_oracle"], rows.appeal["content_oracle"]
    noise = rng.normal(0, 0.7, len(rows))
    seen = {
        "oov": np.zeros(len(rows)),
        "ridge_map": 0.3 * truth + rng.normal(0, 1, len(rows)),
        "coarse": 0.6 * truth + noise,
        "fine": truth + noise,
        "joint": truth + noise + rng.normal(0, ALIKE, len(rows)),
    }
    logits = {name: values + context for name, values in seen.items()}
    logits |= {name + CONTEXT: context for name in seen}
    shared = {"oov": np.zeros(len(rows)), "coarse": 0.6 * appeal, "fine": appeal, "joint": appeal}
    return replace(rows, logits={**logits, "content_oracle": truth}, appeal=shared)


@pytest.fixture(scope="module")
def found(rows: ScoredRows) -> dict:
    return ablation({seed: seed_of(rows, seed) for seed in (1, 2, 3)}, Evaluation(bootstrap=200), seed=0)


def pair(found: dict, variant: str, against: str, metric: str = "gauc") -> dict:
    (one,) = [
        each
        for each in found["comparisons"]
        if (each["variant"], each["against"], each["slice"], each["metric"]) == (variant, against, "cold", metric)
    ]
    return one


def test_a_better_variant_is_sure_and_an_equal_one_is_not(found: dict) -> None:
    assert found["seeds"] == [1, 2, 3]
    better, alike = pair(found, "fine", "ridge_map"), pair(found, "joint", "fine")
    assert better["low"] > 0
    assert better["p_holm"] < 0.05
    assert alike["low"] < 0 < alike["high"]
    assert len(better["by_seed"]) == 3


def test_a_variant_is_compared_only_with_its_opponents(found: dict) -> None:
    against = {each["against"] for each in found["comparisons"] if each["variant"] == "fine"}
    assert against == {"oov", "ridge_map", "coarse"}
    assert not [each for each in found["comparisons"] if each["variant"] == "content_oracle"]


def test_the_gap_is_measured_to_the_ceiling(found: dict) -> None:
    assert found["ceiling"] == "content_oracle"
    assert found["gap_closed_item"]["content_oracle"]["value"] == pytest.approx(1)
    closed = found["gap_closed_item"]["fine"]
    cold = {name: by_slice["cold"]["gauc_item"]["value"] for name, by_slice in found["metrics"].items()}
    assert cold["oov"] == pytest.approx(0.5)
    assert closed["value"] == pytest.approx((cold["fine"] - 0.5) / (cold["content_oracle"] - 0.5))
    assert closed["low"] < closed["value"] < closed["high"]


def test_part_of_the_gain_is_appeal(found: dict) -> None:
    assert set(found["appeal_share"]) == {"coarse", "fine", "joint"}
    assert 0.3 < found["appeal_share"]["fine"]["value"] < 1


def test_one_seed_has_intervals_over_users_alone(rows: ScoredRows) -> None:
    found = ablation({7: seed_of(rows, 7)}, Evaluation(bootstrap=100), seed=0)
    fine = found["metrics"]["fine"]["cold"]["gauc"]
    assert fine["spread"] is None
    assert fine["low"] < fine["value"] < fine["high"]


def test_the_page_names_every_variant_and_says_what_is_sure(found: dict) -> None:
    about = {
        **found,
        "meanings": dict.fromkeys(found["variants"], "something"),
        "tuned": {"fine": {"setting": {"dropout": 0.1}, "parameters": 1234, "valid_gauc": 0.7}},
    }
    json.dumps(about, allow_nan=False)
    page = ablation_markdown("mine", about)
    for name in found["variants"]:
        assert f"| {name} |" in page or f"| **{name}** |" in page
    sure, unsure = page.index("**fine** against ridge_map"), page.index("**joint** against fine")
    assert sure < unsure
    assert "not sure" in page[unsure : unsure + 120]
    assert "| fine | something | 1,234 | dropout 0.1 | 0.7000 |" in page
    assert len(ablation_chart(about).axes) == 1


def test_splits_of_their_own_have_users_of_their_own(rows: ScoredRows) -> None:
    half = rows.user_idx % 2 == 0
    parts = {1: seed_of(rows.take(half), 1), 2: seed_of(rows.take(~half), 2)}
    found = ablation(parts, Evaluation(bootstrap=200), seed=0, own_splits=True)
    better = pair(found, "fine", "ridge_map")
    alone = {
        seed: pair(ablation({seed: part}, Evaluation(bootstrap=200), seed=0), "fine", "ridge_map")
        for seed, part in parts.items()
    }
    assert better["by_seed"] == [each["delta"] for each in alone.values()]
    assert better["ranges"][0] == [alone[1]["low"], alone[1]["high"]]
    # Two splits know little of all splits.
    assert better["high"] - better["low"] > max(high - low for low, high in better["ranges"])
    page = ablation_markdown("films", found | {"tuned": {}, "meanings": dict.fromkeys(found["variants"], "")})
    assert "each on a split of its own" in page
    assert page.count("; by split ") == page.count("** against ")
