import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from coldstart.alignment.contrastive import info_nce, retrieval

RANK = Path(__file__).with_name("nce_rank.py")


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_is_the_cross_entropy_of_finding_the_own_row():
    coarse, targets = unit(4, 8), unit(4, 8, seed=1)
    expected = F.cross_entropy(coarse @ targets.T / 0.2, torch.arange(4))
    torch.testing.assert_close(info_nce(coarse, targets, torch.arange(4), temperature=0.2), expected)


def test_another_row_of_the_same_item_is_no_negative():
    coarse, targets = unit(3, 8), unit(3, 8, seed=1)
    targets[1] = targets[0]
    loss = info_nce(coarse, targets, torch.tensor([7, 7, 9]), temperature=0.2)
    logits = coarse @ targets.T / 0.2
    logits[0, 1] = logits[1, 0] = float("-inf")
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(3)))


def test_targets_get_no_gradient():
    coarse, targets = unit(4, 8).requires_grad_(), unit(4, 8, seed=1).requires_grad_()
    info_nce(coarse, targets, torch.arange(4), temperature=0.2).backward()
    assert targets.grad is None
    assert coarse.grad is not None


def test_half_precision_proxies_are_compared_in_float32():
    loss = info_nce(unit(4, 8).bfloat16(), unit(4, 8, seed=1).bfloat16(), torch.arange(4), temperature=0.01)
    assert loss.dtype == torch.float32


def test_two_ranks_give_the_gradient_of_one(tmp_path: Path):
    rows = {
        "features": unit(8, 6),
        "weight": unit(6, 5, seed=1),
        "targets": unit(8, 5, seed=2),
        "item_idx": torch.tensor([1, 2, 3, 4, 2, 5, 6, 1]),
    }
    gradients = {}
    for world in (1, 2):
        path = tmp_path / f"{world}"
        save_file(rows, path)
        ranks = [subprocess.Popen([sys.executable, RANK, path, str(r), str(world)]) for r in range(world)]
        assert [rank.wait(60) for rank in ranks] == [0] * world
        gradients[world] = load_file(f"{path}.out")["gradient"]
    torch.testing.assert_close(gradients[2], gradients[1], atol=1e-6, rtol=1e-6)


def test_retrieval_of_perfect_and_of_random_proxies():
    candidates = unit(200, 16)
    own = torch.arange(50)
    perfect = retrieval(candidates[:50], own, candidates)
    assert perfect["recall_at_10"] == 1
    assert perfect["mean_reciprocal_rank"] == 1
    assert perfect["mean_cosine"] == pytest.approx(1)
    assert perfect["chance_recall_at_10"] == 0.05
    assert retrieval(unit(50, 16, seed=3), own, candidates)["recall_at_10"] < 0.3
