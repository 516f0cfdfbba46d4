import math

import pytest
import torch
import torch.nn.functional as F

from coldstart.metrics.retrieval import retrieval_metrics, uniformity


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_retrieval_of_perfect_and_of_random_proxies():
    candidates = unit(600, 16)
    own = torch.arange(300)
    perfect = retrieval_metrics(candidates[:300], own, candidates)
    assert perfect["recall_at_1"] == perfect["recall_at_10"] == perfect["mean_rank"] == 1
    assert perfect["mean_reciprocal_rank"] == 1
    assert perfect["mean_cosine"] == pytest.approx(1)
    assert perfect["chance_recall_at_10"] == pytest.approx(1 / 60)
    random = retrieval_metrics(unit(300, 16, seed=3), own, candidates)
    assert random["recall_at_1"] < random["recall_at_10"] < 0.1
    assert 200 < random["mean_rank"] < 400


def test_a_rank_is_one_plus_the_candidates_with_a_higher_score():
    candidates = torch.eye(4)
    coarse = F.normalize(torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0]]), dim=-1)
    metrics = retrieval_metrics(coarse, torch.tensor([0, 2]), candidates)
    assert metrics["mean_rank"] == 2
    assert metrics["recall_at_1"] == 0.5


def test_equal_scores_share_their_ranks():
    """An encoder that maps all items to one vector retrieves nothing."""
    candidates = F.normalize(torch.ones(5, 4), dim=-1)
    metrics = retrieval_metrics(candidates[:2], torch.tensor([0, 3]), candidates)
    assert metrics["mean_rank"] == 3
    assert metrics["recall_at_1"] == 0


def test_the_standard_error_is_that_of_the_mean_reciprocal_rank():
    candidates = torch.eye(4)
    coarse = F.normalize(torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0]]), dim=-1)
    metrics = retrieval_metrics(coarse, torch.tensor([0, 1]), candidates)
    assert metrics["mean_reciprocal_rank"] == pytest.approx(0.75)
    assert metrics["reciprocal_rank_error"] == pytest.approx(0.25 / 2**0.5)


def test_uniformity_of_one_point_and_of_a_sphere():
    assert uniformity(torch.ones(5, 4) / 2) == pytest.approx(0)
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert uniformity(unit(500, 64)) == pytest.approx(-4, abs=0.2)
    assert math.isfinite(uniformity(unit(1, 4)))
