import numpy as np
import torch

from coldstart.modules.content_similarity import FEATURES, similarity_features

rng = np.random.default_rng(3)


def reference(target, history, label, mask):
    found = []
    for wanted in (1, 0):
        cosines = [
            float(target @ other / np.linalg.norm(target) / np.linalg.norm(other))
            for other, clicked, visible in zip(history, label, mask, strict=True)
            if visible and clicked == wanted and other.any()
        ]
        found += [np.mean(cosines), max(cosines)] if cosines else [0, 0]
        found.append(np.log1p(len(cosines)))
    return found


def test_features_equal_a_loop_over_events():
    target, history = rng.normal(size=(3, 2, 5)), rng.normal(size=(3, 7, 5))
    label, mask = rng.integers(0, 2, (3, 7)), rng.random((3, 2, 7)) < 0.6
    history[0, 2], mask[1, 0], label[2] = 0, False, 1
    given = (torch.from_numpy(values) for values in (target, history, label.astype(float), mask))
    found = similarity_features(*given)
    assert found.shape == (3, 2, len(FEATURES))
    for row in range(3):
        for at in range(2):
            wanted = reference(target[row, at], history[row], label[row], mask[row, at])
            assert np.allclose(found[row, at], wanted)


def test_an_empty_history_and_unknown_content_give_zeros():
    empty = similarity_features(torch.ones(1, 2, 3), torch.ones(1, 0, 3), torch.ones(1, 0), torch.ones(1, 2, 0).bool())
    assert torch.equal(empty, torch.zeros(1, 2, 6))
    unknown = similarity_features(
        torch.zeros(1, 1, 3), torch.ones(1, 2, 3), torch.ones(1, 2), torch.ones(1, 1, 2).bool()
    )
    assert unknown[0, 0, :2].tolist() == [0, 0]
    assert unknown.isfinite().all()
