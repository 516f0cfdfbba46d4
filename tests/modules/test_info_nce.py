from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from coldstart.modules import info_nce as contrastive
from coldstart.modules.info_nce import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    CoarseModel,
    Targets,
    Temperature,
    info_nce,
    pair_info_nce,
)
from tests.modules.nce_rank import compute
from tests.ranks import exit_codes, preload

preload(compute.__module__)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def plain(coarse: torch.Tensor, own: Targets, candidates: Targets, temperature: float) -> torch.Tensor:
    """Direct implementation: the own row, then all candidates of other groups."""
    positive = (coarse * own.rows).sum(1, keepdim=True) / temperature
    scores = coarse @ candidates.rows.T / temperature
    if own.log_q is not None:
        positive, scores = positive - own.log_q[:, None], scores - candidates.log_q
    scores = scores.masked_fill(own.groups[:, None] == candidates.groups, float("-inf"))
    return F.cross_entropy(
        torch.cat([positive, scores], 1), torch.zeros(len(coarse), dtype=torch.long), reduction="none"
    )


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that a few rows need several in each direction, the last ones partly filled."""
    monkeypatch.setattr(contrastive, "ROWS_PER_TILE", 3)
    monkeypatch.setattr(contrastive, "CANDIDATES_PER_TILE", 4)


def problem(dtype: torch.dtype = torch.float32, *, log_q: bool = False) -> tuple[torch.Tensor, Targets, Targets]:
    """8 rows against 19 candidates (the batch and sampled ones), with duplicate items and one group of three."""
    generator = torch.Generator().manual_seed(4)
    rows, groups = unit(19, 6, seed=1, dtype=dtype), torch.arange(19)
    groups[[2, 9, 15]] = 2
    groups[5] = groups[12]
    q = torch.randn(19, generator=generator, dtype=dtype) if log_q else None
    own = Targets(rows[:8], groups[:8], None if q is None else q[:8])
    return unit(8, 6, dtype=dtype).requires_grad_(), own, Targets(rows, groups, q)


def test_the_loss_is_the_cross_entropy_of_the_own_row():
    coarse, targets = unit(4, 8), Targets(unit(4, 8, seed=1), torch.arange(4))
    expected = F.cross_entropy(coarse @ targets.rows.T / 0.2, torch.arange(4), reduction="none")
    torch.testing.assert_close(info_nce(coarse, targets, targets, temperature=0.2), expected)


def test_a_row_of_the_same_group_is_not_a_negative():
    coarse, targets = unit(3, 8), Targets(unit(3, 8, seed=1), torch.tensor([7, 7, 9]))
    logits = coarse @ targets.rows.T / 0.2
    logits[0, 1] = logits[1, 0] = float("-inf")
    expected = F.cross_entropy(logits, torch.arange(3), reduction="none")
    torch.testing.assert_close(info_nce(coarse, targets, targets, temperature=0.2), expected)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("log_q", [False, True])
def test_tiles_give_the_loss_and_gradient_of_the_plain_loss(log_q: bool):
    coarse, own, candidates = problem(log_q=log_q)
    weights = torch.rand(8, generator=torch.Generator().manual_seed(1))
    results = {}
    for name, losses in {
        "tiled": info_nce(coarse, own, candidates, temperature=0.05),
        "plain": plain(coarse, own, candidates, 0.05),
    }.items():
        (gradient,) = torch.autograd.grad((losses * weights).sum(), coarse)
        results[name] = losses.detach(), gradient
    torch.testing.assert_close(results["tiled"], results["plain"], atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("log_q", [False, True])
def test_the_gradient_equals_finite_differences(log_q: bool):
    coarse, own, candidates = problem(torch.float64, log_q=log_q)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, t: info_nce(c, own, candidates, temperature=t), (coarse, temperature))


def test_scores_far_beyond_the_range_of_exp_stay_finite():
    coarse, own, candidates = problem()
    losses = info_nce(coarse, own, candidates, temperature=1e-3)
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(losses, plain(coarse, own, candidates, 1e-3), rtol=1e-4, atol=1e-3)


def test_without_negatives_the_loss_is_zero():
    targets = Targets(unit(2, 4, seed=1), torch.tensor([3, 3]))
    assert info_nce(unit(2, 4), targets, targets, temperature=0.2).tolist() == [0, 0]


def test_a_nan_proxy_makes_only_its_own_loss_nan():
    coarse, own, candidates = problem()
    damaged = coarse.detach().clone()
    damaged[3] = float("nan")
    assert info_nce(damaged, own, candidates, temperature=0.2).isnan().nonzero().tolist() == [[3]]


def test_targets_get_no_gradient():
    coarse, rows = unit(4, 8).requires_grad_(), unit(4, 8, seed=1).requires_grad_()
    targets = Targets(rows, torch.arange(4))
    info_nce(coarse, targets, targets, temperature=0.2).sum().backward()
    assert rows.grad is None
    assert coarse.grad is not None


def test_half_precision_proxies_are_compared_in_float32():
    targets = Targets(unit(4, 8, seed=1).bfloat16(), torch.arange(4))
    assert info_nce(unit(4, 8).bfloat16(), targets, targets, temperature=0.01).dtype == torch.float32


def test_several_ranks_give_the_gradient_of_one(tmp_path: Path):
    """Groups are uneven: one rank has an item three times, another has no duplicates."""
    rows = {
        "features": unit(8, 6),
        "weight": unit(6, 5, seed=1),
        "targets": unit(8, 5, seed=2),
        "groups": torch.tensor([1, 1, 1, 3, 4, 2, 5, 1]),
    }
    path = tmp_path / "rows"
    save_file(rows, path)
    assert exit_codes(*(partial(compute, path, rank) for rank in range(4))) == [0] * 4
    alone = load_file(f"{path}.1")
    for world in (2, 4):
        torch.testing.assert_close(load_file(f"{path}.{world}"), alone, atol=1e-6, rtol=1e-6)


class SmallEncoder(torch.nn.Module):
    """Encoder with dropout whose mask is seeded per item, so that it does not depend on the pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = torch.nn.Linear(6, 32), torch.nn.Linear(32, 5)

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        kept = torch.stack([torch.rand(32, generator=torch.Generator().manual_seed(int(s))) for s in inputs["seed"]])
        hidden = self.inner(inputs["features"]).relu() * (kept > 0.3) / 0.7
        return F.normalize(self.outer(hidden), dim=-1), None


def test_passes_of_any_size_give_the_gradient_of_the_whole_batch_with_dropout():
    inputs = {"features": unit(12, 6, seed=7), "seed": torch.arange(12)}
    targets = Targets(unit(12, 5, seed=8), torch.tensor([1, 2, 3, 4, 5, 6, 7, 2, 9, 10, 1, 12]))
    gradients = {}
    for size in (12, 6, 4, 1):
        model = CoarseModel(SmallEncoder(), Temperature(0.1, learned=True))
        for start in range(0, 12, size):
            rows = slice(start, start + size)
            coarse, temperature = model({name: value[rows] for name, value in inputs.items()})
            own = Targets(targets.rows[rows], targets.groups[rows])
            (info_nce(coarse, own, targets, temperature=temperature).mean() * size / 12).backward()
        gradients[size] = [weight.grad for weight in model.parameters()]
    for size in (6, 4, 1):
        torch.testing.assert_close(gradients[size], gradients[12], atol=1e-6, rtol=1e-5)


def test_a_fixed_temperature_has_no_parameter():
    temperature = Temperature(0.07, learned=False)
    assert not list(temperature.parameters())
    assert temperature().item() == pytest.approx(0.07)


@pytest.mark.parametrize(("direction", "bound"), [(1, LOWEST_TEMPERATURE), (-1, HIGHEST_TEMPERATURE)])
def test_a_learned_temperature_stays_within_its_bounds_and_can_leave_them(direction: int, bound: float):
    temperature = Temperature(0.2, learned=True)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.5)

    def push(sign: int) -> float:
        optimizer.zero_grad()
        (sign * temperature().log()).backward()
        optimizer.step()
        return temperature().item()

    assert temperature().item() == pytest.approx(0.2)
    assert [push(direction) for _ in range(40)][-1] == pytest.approx(bound)
    assert abs(push(-direction) - bound) > 0.05 * bound


def test_half_precision_keeps_the_start_of_a_learned_temperature():
    assert Temperature(0.07, learned=True).bfloat16()().item() == pytest.approx(0.07)


def pair_problem(dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """8 queries with partners, 19 candidates, and two masks per row: items 2, 9 and 15 are one, users repeat."""
    rows = [unit(8, 6, dtype=dtype), unit(8, 6, seed=1, dtype=dtype), unit(19, 6, seed=2, dtype=dtype)]
    items = torch.arange(19)
    items[[2, 9, 15]] = 2
    candidates = torch.stack([items, torch.arange(19) % 7 + 100], dim=1)
    return [row.requires_grad_() for row in rows], candidates[:8], candidates


def plain_pairs(
    queries: torch.Tensor, own: Targets, candidates: Targets, *, temperature: torch.Tensor | float
) -> torch.Tensor:
    positive = (queries * own.rows).sum(1, keepdim=True)
    masked = (own.groups[:, None] == candidates.groups[None]).any(-1)
    logits = torch.cat([positive, queries @ candidates.rows.T], 1) / temperature
    logits = logits.masked_fill(F.pad(masked, (1, 0)), float("-inf"))
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long), reduction="none")


@pytest.mark.usefixtures("small_tiles")
def test_the_gradient_of_pairs_reaches_queries_partners_candidates_and_temperature():
    (queries, partners, others), own, groups = pair_problem()
    weights = torch.rand(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    found = []
    for loss in (pair_info_nce, plain_pairs):
        losses = loss(queries, Targets(partners, own), Targets(others, groups), temperature=temperature)
        grads = torch.autograd.grad((losses * weights).sum(), (queries, partners, others, temperature))
        found.append([losses.detach(), *grads])
    for tiled, direct in zip(*found, strict=True):
        torch.testing.assert_close(tiled, direct)
    masked = (own[:, None] == groups[None]).any(-1)
    assert masked.sum() > len(own) + 10


def test_a_candidate_that_shares_any_group_is_no_negative():
    queries, rows = unit(1, 4), unit(3, 4, seed=1)
    own, candidates = torch.tensor([[1, 50]]), torch.tensor([[2, 50], [1, 60], [3, 70]])
    loss = pair_info_nce(queries, Targets(rows[:1], own), Targets(rows, candidates), temperature=0.5)
    logits = torch.stack([queries[0] @ rows[0], queries[0] @ rows[2]]) / 0.5
    torch.testing.assert_close(loss[0], -F.log_softmax(logits, 0)[0])
