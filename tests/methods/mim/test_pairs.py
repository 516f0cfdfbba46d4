import numpy as np

from coldstart.methods.mim.pairs import next_click_pairs
from tests.events import Events

DAY = 86_400


def events() -> Events:
    """Two users: one with skips, a repeat and a long break, one whose later events are not in train."""
    return Events(
        offsets=np.array([0, 7, 11]),
        item_idx=np.array([1, 2, 3, 3, 4, 5, 6, 2, 1, 7, 8]),
        label=np.array([1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1], np.int8),
        timestamp=np.array([0, 1, 2, 3, 4, 5 + DAY, 6 + DAY, 0, 1, 2, 3]),
        split=np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], np.int8),
    )


def test_pairs_are_successive_train_clicks_of_one_user():
    pairs = next_click_pairs(events(), window_s=DAY)
    assert list(zip(pairs.query.tolist(), pairs.item.tolist(), pairs.user.tolist(), strict=True)) == [
        (1, 3, 0),
        (3, 4, 0),
        (5, 6, 0),
        (2, 1, 1),
        (1, 7, 1),
    ]
    assert (4, 5) in zip(*(side.tolist() for side in _sides(DAY + 1)), strict=True)


def _sides(window_s: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = next_click_pairs(events(), window_s=window_s)
    return pairs.query, pairs.item


def test_every_user_weighs_alike():
    pairs = next_click_pairs(events(), window_s=DAY)
    np.testing.assert_allclose(pairs.weights, [1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2])


def test_own_item_equal_content_and_the_same_user_are_no_negatives():
    pairs = next_click_pairs(events(), window_s=DAY)
    content = np.array([0, 1, 2, 3, 4, 5, 6, 4, 8])
    queries, items = pairs.groups(content)
    masked = (queries[:, None] == items[None]).any(-1)
    expected = np.zeros((5, 5), bool)
    expected[:3, :3] = expected[3:, 3:] = True  # The same user.
    expected[0, 3] = True  # Item 1 is the query of the one, the item of the other.
    expected[0, 4] = expected[4, 0] = True  # Both queries are item 1.
    expected[1, 4] = expected[4, 1] = True  # Items 4 and 7 have the same content.
    np.testing.assert_array_equal(masked, expected)
