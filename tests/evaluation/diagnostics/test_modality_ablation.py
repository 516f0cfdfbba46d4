import numpy as np

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.diagnostics.modality_ablation import modality_ablation

SETTINGS = Evaluation(num_resamples=200)


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    user, base = rng.integers(0, 150, 6000), rng.normal(size=6000)
    image, text = rng.normal(size=(2, 6000))
    label = rng.uniform(size=6000) < 1 / (1 + np.exp(-(base + image + 0.5 * text)))
    return user, label.astype(int), base, image, text


def test_each_input_keeps_its_part_of_the_gain() -> None:
    user, label, base, image, text = _rows()
    logits = {"both": base + image + 0.5 * text, "image": base + image, "text": base + text}
    found = modality_ablation(user, label, base, logits, SETTINGS, seed=0)
    assert found is not None
    gain = {name: one["gain"]["value"] for name, one in found["inputs"].items()}
    assert gain["both"] > gain["image"] > gain["text"] > 0.02
    drop = found["inputs"]["text"]["drop"]
    assert drop["low"] > 0
    assert abs(drop["value"] - (gain["both"] - gain["text"])) < 1e-9
    assert found["inputs"]["both"]["drop"]["value"] == 0
    assert (found["rows"], found["users"]) == (6000, 150)


def test_the_oov_logit_alone_has_no_gain() -> None:
    user, label, base, image, _ = _rows()
    found = modality_ablation(user, label, base, {"both": base + image, "text": base}, SETTINGS, seed=0)
    assert found is not None
    assert found["inputs"]["text"]["gain"]["value"] == 0


def test_without_users_of_both_classes_the_result_is_none() -> None:
    one = np.zeros(4)
    assert (
        modality_ablation(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), one, {"both": one}, SETTINGS, seed=0) is None
    )
