"""Contrastive training: its loss, its independence of ranks, resume, and what it measures."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coldstart.config import MetricsLog, UserError
from coldstart.config.recipe import Contrastive
from coldstart.training.contrastive_trainer import (
    ContrastiveContext,
    ContrastiveTrainer,
)
from tests.ranks import exit_codes, on_ranks, preload
from tests.training.pair_rank import PAIRS, SETTINGS, TwoLevels, pairs, train

preload(__name__)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    path = tmp_path_factory.mktemp("alone")
    return train(path), path


def assert_equal(found: dict[str, Any], wanted: dict[str, Any], **tolerance: float) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def test_without_a_queue_the_first_loss_is_the_dense_cross_entropy_of_both_ways(tmp_path: Path):
    train(tmp_path, queue_batches=0, epochs=1, learn_temperature=False, temperature=0.2)
    first = next(line for line in MetricsLog(tmp_path / "metrics.jsonl").read() if "loss" in line)
    data = pairs(weighted=True)
    order = np.random.default_rng((5, 0)).permutation(PAIRS)[:12]
    levels = TwoLevels()(next(data.stream(order, 12)))
    groups = torch.from_numpy(data.item_groups[order])
    masked = (groups[:, None] == groups[None]).any(-1) & ~torch.eye(12, dtype=torch.bool)
    weights = torch.from_numpy(data.weights[order])
    total = 0.0
    for level, weight in TwoLevels.levels.items():
        scores = (levels[level][0] @ levels[level][1].T / 0.2).masked_fill(masked, float("-inf"))
        both = [F.cross_entropy(one, torch.arange(12), reduction="none") for one in (scores, scores.T)]
        total += weight * ((both[0] + both[1]) / 2 * weights).sum().item() / weights.sum().item()
    assert first["loss"] == pytest.approx(total, abs=2e-6)


def test_training_lowers_the_loss_and_raises_recall(alone: tuple[dict[str, Any], Path]):
    lines = MetricsLog(alone[1] / "metrics.jsonl").read()
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    curve = alone[0]["curve"]
    assert len(curve) == SETTINGS["epochs"] + 1
    assert curve[-1]["both_mean_reciprocal_rank"] > curve[0]["both_mean_reciprocal_rank"] + 0.1
    assert curve[-1]["both_alignment"] == pytest.approx(2 - 2 * curve[-1]["both_mean_cosine"], abs=1e-5)


@pytest.mark.parametrize("world", [2, 3])
def test_several_ranks_learn_like_one(alone: tuple[dict[str, Any], Path], world: int):
    found = on_ranks(world, train)
    assert_equal(found["learner"], alone[0]["learner"], atol=2e-5, rtol=2e-4)
    for several, one in zip(found["curve"], alone[0]["curve"], strict=True):
        assert several == pytest.approx(one, abs=1e-4)


def test_the_queue_holds_the_items_of_the_last_steps(alone: tuple[dict[str, Any], Path]):
    data = pairs()
    order = np.random.default_rng((5, 2)).permutation(PAIRS)
    last = sorted(map(tuple, data.item_groups[order[36:60]].tolist()))
    for level in ("item", "both"):
        assert sorted(map(tuple, alone[0]["learner"][f"queues.{level}.groups"].tolist())) == last


def test_more_negatives_change_the_loss_from_the_second_step_on(tmp_path: Path):
    for name, queue in (("none", 0), ("some", 2)):
        train(tmp_path / name, queue_batches=queue, epochs=1, momentum=1.0)
    logs = [MetricsLog(tmp_path / name / "metrics.jsonl").read() for name in ("none", "some")]
    (first, second), (other_first, other_second) = (
        [line["loss"] for line in log if "loss" in line][:2] for log in logs
    )
    assert first == other_first
    assert other_second > second


@pytest.mark.parametrize("stop_after", [3, 7, 10])
def test_a_killed_run_resumes_to_the_same_result(alone: tuple[dict[str, Any], Path], tmp_path: Path, stop_after: int):
    killed = partial(train, tmp_path, stop_after=stop_after)
    assert exit_codes(killed) == [9]
    before = MetricsLog(tmp_path / "metrics.jsonl").read()
    resumed = train(tmp_path)
    assert_equal(resumed["learner"], alone[0]["learner"], atol=0, rtol=0)
    assert resumed["curve"] == alone[0]["curve"]
    lines = MetricsLog(tmp_path / "metrics.jsonl").read()
    assert 0 < lines[len(before)]["done"] - 1 <= stop_after


def test_another_key_starts_again(alone: tuple[dict[str, Any], Path], tmp_path: Path):
    train(tmp_path, epochs=1)
    assert train(tmp_path, epochs=1, key="other", learning_rate=0.01)["curve"] != alone[0]["curve"][:2]
    done = [line["done"] for line in MetricsLog(tmp_path / "metrics.jsonl").read()]
    assert done.count(0) == 2


def test_training_that_learns_nothing_keeps_the_weights_before_it(tmp_path: Path):
    found = train(tmp_path, learning_rate=1e-9, weight_decay=0.0)
    assert_equal(found["weights"], TwoLevels().state_dict(), atol=0, rtol=0)
    assert "weights before training" in MetricsLog(tmp_path / "metrics.jsonl").read()[-1]["note"]


def test_the_best_epoch_is_restored(tmp_path: Path):
    found = train(tmp_path, learning_rate=30.0, weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=1e9, momentum=0.5)
    scores = [point["both_mean_reciprocal_rank"] for point in found["curve"]]
    assert 0 < int(np.argmax(scores)) < len(scores) - 1
    model = TwoLevels()
    model.load_state_dict(found["weights"])
    trainer = ContrastiveTrainer(model, pairs(), pairs(23, seed=1), Contrastive(**SETTINGS), ContrastiveContext(0))
    assert trainer._measure()["both_mean_reciprocal_rank"] == pytest.approx(max(scores), abs=1e-6)


def test_frozen_towers_stay_bit_identical():
    def freeze(model: TwoLevels) -> None:
        model.query.requires_grad_(False)

    trained = train(change=freeze)["weights"]
    assert torch.equal(trained["query.weight"], TwoLevels().query.weight)
    assert not torch.equal(trained["item.weight"], TwoLevels().item.weight)


def test_a_loss_that_is_not_finite_names_the_step():
    def spoil(model: TwoLevels) -> None:
        torch.nn.init.constant_(model.query.weight, math.nan)

    with pytest.raises(UserError, match=r"loss of step 1 is not finite; lower the learning_rate 0\.02"):
        train(change=spoil)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch": 61, "queue_batches": 0}, "batch 61 exceeds the 60 training pairs"),
        ({"queue_batches": 6}, "queue_batches 6 x batch 12 = 72 negatives exceed the 60 .* at most 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(more: dict[str, int], message: str):
    with pytest.raises(UserError, match=message):
        train(**more)


def test_without_held_out_pairs_the_last_weights_are_kept():
    model = TwoLevels()
    trainer = ContrastiveTrainer(model, pairs(), pairs(0), Contrastive(**SETTINGS), ContrastiveContext(5))
    assert trainer.run() == [{}] * 4
    assert_equal(model.state_dict(), trainer.learner.model.state_dict(), atol=0, rtol=0)
    assert trainer.step == 15
