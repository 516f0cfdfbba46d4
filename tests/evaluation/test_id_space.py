import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.id_space import held_out_rows, id_space, log_odds

M, P, D = 600, 10, 6
SETTINGS = Evaluation(bootstrap=200)


def _table(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Content of which half is told by rows: along axis 0, appeal in disguise; and rows with noise of their own."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(M, P))
    appeal = (content[:, 0] + rng.normal(size=M)) / np.sqrt(2)
    rows = 0.01 * rng.normal(size=(M, D)) + 5
    rows[:, 0] += 2 * appeal
    rows[:, 1] += content[:, 1]
    rows[:, 2] += rng.normal(size=M)
    events = np.full(M, 400)
    clicks = rng.binomial(events, 1 / (1 + np.exp(-appeal)))
    return content, rows, clicks, events


def test_each_direction_is_explained_as_far_as_content_made_it() -> None:
    found = id_space(*_table(), np.zeros(M, bool), SETTINGS, seed=0)
    assert found is not None
    assert [direction["share"] for direction in found["directions"][:3]] == pytest.approx(
        [4 / 6, 1 / 6, 1 / 6], abs=0.05
    )
    assert found["directions"][0]["r2"] == pytest.approx(0.5, abs=0.08)
    assert found["r2_appeal"]["value"] == pytest.approx(0.5, abs=0.08)
    assert found["r2_rest"]["value"] == pytest.approx(0.5, abs=0.08)
    assert found["r2"]["low"] < 0.5 < found["r2"]["high"]
    assert found["appeal"] == pytest.approx(4 / 6, abs=0.08)
    assert found["first_is_appeal"] > 0.95
    assert found["effective"] == pytest.approx(1 / (4 / 9 + 2 / 36), abs=0.2)
    assert found["found"]["at_10"] > 3 * found["chance"]["at_10"]


def test_content_that_says_nothing_explains_nothing() -> None:
    _, rows, clicks, events = _table()
    noise = np.random.default_rng(9).normal(size=(M, 3 * P))
    found = id_space(noise, rows, clicks, events, np.zeros(M, bool), SETTINGS, seed=0)
    assert found is not None
    assert found["r2"]["value"] < 0.02
    assert found["found"]["at_10"] < 3 * found["chance"]["at_10"]


def test_an_item_has_no_part_in_its_own_prediction() -> None:
    content, rows, *_ = _table()
    changed = rows.copy()
    changed[7] += 1_000
    before, after = (held_out_rows(content, table, seed=0)[7] for table in (rows, changed))
    assert after.tolist() == before.tolist()


def test_items_that_the_encoder_was_aligned_with_are_not_judged_where_others_are() -> None:
    """Content that has learned rows by heart looks good on the items it learned from only."""
    content, rows, clicks, events = _table()
    kept_out = np.arange(M) % 4 == 0
    rng = np.random.default_rng(3)
    by_heart = np.where(kept_out[:, None], rng.normal(size=(M, D)), rows - 5)
    content = np.concatenate([by_heart, content[:, :2] * 0], axis=1)
    everything = id_space(content, rows, clicks, events, np.zeros(M, bool), SETTINGS, seed=0)
    honest = id_space(content, rows, clicks, events, kept_out, SETTINGS, seed=0)
    assert everything is not None
    assert honest is not None
    assert (everything["kept_out"], honest["kept_out"], honest["judged"]) == (False, True, 150)
    assert everything["r2"]["value"] > 0.3
    assert honest["r2"]["value"] < 0.05


def test_too_few_items_and_a_table_of_one_row_say_nothing() -> None:
    content, rows, clicks, events = _table()
    few = slice(0, 20)
    none = np.zeros(M, bool)
    assert id_space(content[few], rows[few], clicks[few], events[few], none[few], SETTINGS, seed=0) is None
    assert id_space(content, np.ones((M, D)), clicks, events, none, SETTINGS, seed=0) is None


def test_log_odds_of_few_events_are_drawn_to_the_common_rate() -> None:
    found = log_odds(np.array([2, 30, 70, 40, 60]), np.array([2, 100, 100, 100, 100]))
    assert found[0] < found[2]
