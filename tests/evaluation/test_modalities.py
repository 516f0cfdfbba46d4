import numpy as np

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.modalities import modalities

SETTINGS = Evaluation(bootstrap=200)


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    user, base = rng.integers(0, 150, 6000), rng.normal(size=6000)
    picture, words = rng.normal(size=(2, 6000))
    label = rng.uniform(size=6000) < 1 / (1 + np.exp(-(base + picture + 0.5 * words)))
    return user, label.astype(int), base, picture, words


def test_each_half_keeps_its_part_of_the_gain() -> None:
    user, label, base, picture, words = _rows()
    logits = {"both": base + picture + 0.5 * words, "picture": base + picture, "words": base + words}
    found = modalities(user, label, base, logits, SETTINGS, seed=0)
    assert found is not None
    gain = {name: reading["gain"]["value"] for name, reading in found["readings"].items()}
    assert gain["both"] > gain["picture"] > gain["words"] > 0.02
    lacks = found["readings"]["words"]["lacks"]
    assert lacks["low"] > 0
    assert abs(lacks["value"] - (gain["both"] - gain["words"])) < 1e-9
    assert found["readings"]["both"]["lacks"]["value"] == 0
    assert (found["rows"], found["users"]) == (6000, 150)


def test_context_alone_gains_nothing() -> None:
    user, label, base, picture, _ = _rows()
    found = modalities(user, label, base, {"both": base + picture, "words": base}, SETTINGS, seed=0)
    assert found is not None
    assert found["readings"]["words"]["gain"]["value"] == 0


def test_users_of_one_class_leave_nothing_to_measure() -> None:
    one = np.zeros(4)
    assert modalities(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), one, {"both": one}, SETTINGS, seed=0) is None
