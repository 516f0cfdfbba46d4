import numpy as np
import pytest
import torch

from coldstart.data.batches import UserWindows
from coldstart.evaluation.protocol.scoring import mean_logits, sample_contexts, score_rows
from coldstart.rankers.interface import Ranker
from coldstart.training.ctr_trainer import Score, slot_score


def _scores(ranker: Ranker) -> dict[str, Score]:
    return {name: slot_score(ranker, table) for name, table in _tables().items()}


def _tables() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "oov": torch.randn(1, 6, generator=generator).expand(21, 6),
        "fine": torch.randn(21, 6, generator=generator),
    }


def test_every_test_event_is_scored_once_with_and_without_sharding(windows: UserWindows, ranker: Ranker) -> None:
    rows, logits = score_rows(windows.iter_eval(windows_per_step=7), _scores(ranker))
    assert sorted(rows) == windows.event_indices.tolist()
    scores = _scores(ranker)
    parts = [score_rows(windows.iter_eval(windows_per_step=4, rank=r, world=3), scores) for r in range(3)]
    sharded = np.concatenate([part[0] for part in parts])
    for name, values in logits.items():
        again = np.concatenate([part[1][name] for part in parts])
        np.testing.assert_allclose(again[np.argsort(sharded)], values[np.argsort(rows)], rtol=1e-5, atol=1e-6)


def test_a_logit_belongs_to_its_row(windows: UserWindows, ranker: Ranker) -> None:
    tables = _tables()
    rows, logits = score_rows(windows.iter_eval(windows_per_step=7), _scores(ranker))
    batch = windows.batch([3])
    expected = ranker(batch, tables["fine"][batch.target_idx]).detach()
    for t in torch.nonzero(batch.weight[0]).ravel():
        found = logits["fine"][rows == batch.event_index[0, t].item()]
        assert found == pytest.approx(expected[0, t].item(), rel=1e-5, abs=1e-6)


def test_no_windows_give_no_scores(ranker: Ranker) -> None:
    rows, logits = score_rows([], _scores(ranker))
    assert len(rows) == 0
    assert {name: len(values) for name, values in logits.items()} == {"oov": 0, "fine": 0}


def test_contexts_are_evaluated_targets_with_their_own_history(windows: UserWindows, ranker: Ranker) -> None:
    tables = _tables()
    rows, logits = score_rows(windows.iter_eval(windows_per_step=7), _scores(ranker))
    contexts = sample_contexts(windows.iter_eval(windows_per_step=5), max_rows=12)
    assert contexts.target_idx.shape == (12, 1)
    assert len(set(contexts.event_index.ravel().tolist())) == 12
    again = ranker(contexts, tables["fine"][contexts.target_idx]).detach().ravel().numpy()
    expected = [logits["fine"][rows == row].item() for row in contexts.event_index.ravel().tolist()]
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


def test_mean_logit_of_an_item_is_its_mean_over_contexts(
    windows: UserWindows, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldstart.evaluation.protocol.scoring.CONTEXTS_PER_PASS", 5)
    monkeypatch.setattr("coldstart.evaluation.protocol.scoring.ITEMS_PER_PASS", 2)
    tables = _tables()
    contexts = sample_contexts(windows.iter_eval(windows_per_step=5), max_rows=12)
    items = np.array([18, 19, 20])
    found = mean_logits(contexts, items, _scores(ranker))
    one_by_one = [ranker(contexts, tables["fine"][torch.full((12, 1), item)]).mean().item() for item in items.tolist()]
    np.testing.assert_allclose(found["fine"], one_by_one, rtol=1e-5)
    assert np.ptp(found["oov"]) == pytest.approx(0, abs=1e-6)
