import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.compare.release_comparison import compare_releases
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.metrics.clicks import gauc, logloss, sigmoid
from tests.evaluation.rows import drawn_rows

SETTINGS = Evaluation(num_resamples=300)


def rows(champion: str, challenger: str) -> ScoredRows:
    """Two of the drawn variants as champion and challenger, with the same OOV scores."""
    drawn = drawn_rows()
    logits = {"champion": drawn.logits[champion], "challenger": drawn.logits[challenger]}
    context = {f"{side}_oov": drawn.logits["oov"] for side in logits}
    return ScoredRows(**{**vars(drawn), "logits": logits | context, "item_effect": {}})


def entry(found, name, metric):
    return next(one for one in found["differences"] if (one["slice"], one["metric"]) == (name, metric))


def test_values_equal_the_metrics():
    drawn, found = drawn_rows(), compare_releases(rows("coarse", "release"), SETTINGS, seed=1)
    cold = drawn.train_events == 0
    for side, name in (("champion", "coarse"), ("challenger", "release")):
        logit = drawn.logits[name][cold]
        metrics = found["metrics"][side]["cold"]
        assert metrics["rows"] == cold.sum()
        assert metrics["gauc"] == pytest.approx(gauc(drawn.user_idx[cold], drawn.label[cold], logit))
        assert metrics["logloss"] == pytest.approx(logloss(drawn.label[cold], sigmoid(logit)))
        by_item = np.round(logit - drawn.logits["oov"][cold], 5)
        assert metrics["gauc_item"] == pytest.approx(gauc(drawn.user_idx[cold], drawn.label[cold], by_item))


def test_the_interval_of_the_log_loss_is_at_least_that_of_its_rows():
    both = rows("coarse", "release")
    y, a, b = (np.asarray(v, float) for v in (both.label, both.logits["champion"], both.logits["challenger"]))
    difference = np.logaddexp(0, b) - y * b - np.logaddexp(0, a) + y * a
    loss = entry(compare_releases(both, SETTINGS, seed=1), "all", "logloss")
    assert loss["delta"] == pytest.approx(difference.mean())
    spread = (loss["high_both"] - loss["low_both"]) / (2 * 1.96)
    assert 0.9 * difference.std() / np.sqrt(len(y)) < spread < 10 * difference.std() / np.sqrt(len(y))
    assert loss["low_both"] < loss["delta"] < loss["high_both"]


@pytest.mark.parametrize(
    ("champion", "challenger", "winner", "verdict"),
    [
        ("coarse", "release", "challenger", "challenger wins: challenger's item GAUC on"),
        ("release", "coarse", "champion", "champion stays: challenger's item GAUC on"),
        ("fine", "fine", None, "no difference: champion and challenger rank every row equally"),
    ],
)
def test_the_better_one_wins(champion, challenger, winner, verdict):
    found = compare_releases(rows(champion, challenger), SETTINGS, seed=1)
    assert found["winner"] == winner
    assert found["verdict"].startswith(verdict)


def test_noise_gives_no_winner_and_a_minimum_detectable_effect():
    both = rows("fine", "fine")
    noise = np.random.default_rng(3).normal(0, 0.01, (2, len(both)))
    for side, by in zip(("champion", "challenger"), noise, strict=True):
        both.logits[side] = both.logits[side] + by
    found = compare_releases(both, SETTINGS, seed=1)
    assert found["winner"] is None
    assert "no difference larger than the minimum detectable effect" in found["verdict"]
    assert "is detected with 80 % power" in found["verdict"]


def test_a_challenger_that_is_worse_on_one_slice_does_not_win():
    both = rows("fine", "fine")
    cold = both.train_events == 0
    drawn = drawn_rows()
    truth = drawn.logits["oracle"] + drawn.logits["oov"]
    both.logits["challenger"] = np.where(cold, truth, drawn.logits["oov"] + drawn.logits["coarse"] * 0.01)
    found = compare_releases(both, SETTINGS, seed=1)
    assert entry(found, "cold", "gauc_item")["low_both"] > 0
    assert entry(found, "warm", "gauc_item")["high_both"] < 0
    assert found["winner"] == "champion"


def test_rows_without_a_click_are_undecided():
    both = rows("fine", "coarse").take(np.arange(5))
    both.label[:] = 0
    found = compare_releases(both, SETTINGS, seed=1)
    assert found["winner"] is None
    assert found["verdict"].startswith("undecided")
