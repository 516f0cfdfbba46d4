import torch
import torch.nn.functional as F
from torch import nn

from coldstart.training.gradients import GradientSum
from tests.ranks import on_ranks, preload

preload(__name__)

ROWS = torch.tensor([[1, 1, 4], [2, 9, 1], [0, 3, 3], [9, 9, 9]])
WIDTHS = (1, 3, 2)
"""Lookups of each step: the second exceeds the buffer of the first, the third fits."""


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Parameter(torch.randn(10, 3))
        self.used = nn.Parameter(torch.randn(3, 2))
        self.by_some = nn.Parameter(torch.randn(2))
        self.never = nn.Parameter(torch.randn(4))

    def loss(self, rows):
        """Only the rows of the first half of the batch use `by_some`."""
        hidden = F.embedding(rows, self.table, sparse=True) @ self.used
        total = (hidden**2).sum()
        if (rows == 4).any():
            total = total + (hidden * self.by_some).sum()
        return total


def summed(world):
    """Gradients after each step, with the batch shared by `world` ranks; runs in a spawned rank."""
    from coldstart.training.distributed import rank

    model = Small()
    gradients = GradientSum(model.parameters())
    found = []
    for width in WIDTHS:
        model.zero_grad(set_to_none=True)
        sum(model.loss(row[:width]) for row in ROWS[rank() :: world]).backward()
        gradients.start()
        gradients.finish()
        found.append({name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()})
    return found


def test_gradients_are_those_of_all_rows_on_any_number_of_ranks():
    alone = summed(1)
    assert alone == on_ranks(1, summed, 1)
    model = Small()
    for width, found in zip(WIDTHS, alone, strict=True):
        model.zero_grad()
        dense = F.embedding(ROWS[:, :width], model.table) @ model.used
        extra = (F.embedding(ROWS[:1, :width], model.table) @ model.used * model.by_some).sum() if width > 2 else 0
        ((dense**2).sum() + extra).backward()
        assert torch.allclose(torch.tensor(found["table"]), model.table.grad, atol=1e-5)
        assert torch.allclose(torch.tensor(found["used"]), model.used.grad, atol=1e-5)
    for world in (2, 4):
        for shared, reference in zip(on_ranks(world, summed, world), alone, strict=True):
            for name, value in reference.items():
                if value is None:
                    assert shared[name] is None, name
                else:
                    assert torch.allclose(torch.tensor(shared[name]), torch.tensor(value), atol=1e-5), name


def test_a_parameter_that_no_rank_used_has_no_gradient_and_one_that_some_used_has():
    first, second, _ = on_ranks(2, summed, 2)
    assert first["never"] is None
    assert first["by_some"] is None
    assert second["by_some"] is not None
