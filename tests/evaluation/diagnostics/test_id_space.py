import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.diagnostics.id_space import held_out_rows, id_space, log_odds

M, P, D = 600, 10, 6
SETTINGS = Evaluation(num_resamples=200)


def _table(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Content and noisy ID rows that share half of their variance. Axis 0 of the rows is the item effect."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(M, P))
    item_effect = (content[:, 0] + rng.normal(size=M)) / np.sqrt(2)
    rows = 0.01 * rng.normal(size=(M, D)) + 5
    rows[:, 0] += 2 * item_effect
    rows[:, 1] += content[:, 1]
    rows[:, 2] += rng.normal(size=M)
    events = np.full(M, 400)
    clicks = rng.binomial(events, 1 / (1 + np.exp(-item_effect)))
    return content, rows, clicks, events


def test_r2_of_each_direction_is_the_share_that_content_generated() -> None:
    found = id_space(*_table(), np.zeros(M, bool), SETTINGS, seed=0)
    assert found is not None
    assert [direction["share"] for direction in found["directions"][:3]] == pytest.approx(
        [4 / 6, 1 / 6, 1 / 6], abs=0.05
    )
    assert found["directions"][0]["r2"] == pytest.approx(0.5, abs=0.08)
    assert found["r2_item_effect"]["value"] == pytest.approx(0.5, abs=0.08)
    assert found["r2_rest"]["value"] == pytest.approx(0.5, abs=0.08)
    assert found["r2"]["low"] < 0.5 < found["r2"]["high"]
    assert found["item_effect"] == pytest.approx(4 / 6, abs=0.08)
    assert found["item_effect_cosine"] > 0.95
    assert found["participation_ratio"] == pytest.approx(1 / (4 / 9 + 2 / 36), abs=0.2)
    assert found["recall"]["at_10"] > 3 * found["chance_recall"]["at_10"]


def test_random_content_explains_nothing() -> None:
    _, rows, clicks, events = _table()
    noise = np.random.default_rng(9).normal(size=(M, 3 * P))
    found = id_space(noise, rows, clicks, events, np.zeros(M, bool), SETTINGS, seed=0)
    assert found is not None
    assert found["r2"]["value"] < 0.02
    assert found["recall"]["at_10"] < 3 * found["chance_recall"]["at_10"]


def test_an_item_is_not_in_the_fit_of_its_own_prediction() -> None:
    content, rows, *_ = _table()
    changed = rows.copy()
    changed[7] += 1_000
    before, after = (held_out_rows(content, table, seed=0)[7] for table in (rows, changed))
    assert after.tolist() == before.tolist()


def test_only_held_out_items_are_tested_if_there_are_enough() -> None:
    """Content that memorized the rows of aligned items predicts only those."""
    content, rows, clicks, events = _table()
    held_out = np.arange(M) % 4 == 0
    rng = np.random.default_rng(3)
    memorized = np.where(held_out[:, None], rng.normal(size=(M, D)), rows - 5)
    content = np.concatenate([memorized, content[:, :2] * 0], axis=1)
    all_items = id_space(content, rows, clicks, events, np.zeros(M, bool), SETTINGS, seed=0)
    held_out_only = id_space(content, rows, clicks, events, held_out, SETTINGS, seed=0)
    assert all_items is not None
    assert held_out_only is not None
    assert (all_items["held_out"], held_out_only["held_out"], held_out_only["test_items"]) == (False, True, 150)
    assert all_items["r2"]["value"] > 0.3
    assert held_out_only["r2"]["value"] < 0.05


def test_too_few_items_and_a_constant_table_give_none() -> None:
    content, rows, clicks, events = _table()
    few = slice(0, 20)
    none = np.zeros(M, bool)
    assert id_space(content[few], rows[few], clicks[few], events[few], none[few], SETTINGS, seed=0) is None
    assert id_space(content, np.ones((M, D)), clicks, events, none, SETTINGS, seed=0) is None


def test_log_odds_of_few_events_are_shrunk_to_the_mean() -> None:
    found = log_odds(np.array([2, 30, 70, 40, 60]), np.array([2, 100, 100, 100, 100]))
    assert found[0] < found[2]
