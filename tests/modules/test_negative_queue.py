import pytest
import torch

from coldstart.modules.negative_queue import NegativeQueue, update_momentum


def push(queue: NegativeQueue, *numbers: int) -> None:
    values = torch.tensor(numbers)
    queue.push(values[:, None].float().expand(-1, 2), torch.stack([values, -values], dim=1))


def held(queue: NegativeQueue) -> list[int]:
    rows, groups = queue.negatives()
    assert torch.equal(rows[:, 0].long(), groups[:, 0])
    assert torch.equal(groups[:, 0], -groups[:, 1])
    return sorted(groups[:, 0].tolist())


def test_the_oldest_rows_leave_first():
    queue = NegativeQueue(5, 2, 2)
    assert held(queue) == []
    push(queue, 1, 2, 3)
    assert held(queue) == [1, 2, 3]
    push(queue, 4, 5, 6)
    assert held(queue) == [2, 3, 4, 5, 6]
    push(queue, 7, 8)
    assert held(queue) == [4, 5, 6, 7, 8]


def test_of_more_rows_than_it_holds_only_the_last_ones_stay():
    queue = NegativeQueue(3, 2, 2)
    push(queue, 1, 2)
    push(queue, *range(3, 11))
    assert held(queue) == [8, 9, 10]
    push(queue, 11)
    assert held(queue) == [9, 10, 11]


def test_a_queue_of_size_zero_stays_empty():
    queue = NegativeQueue(0, 2, 1)
    queue.push(torch.ones(3, 2), torch.ones(3, 1, dtype=torch.long))
    assert held_rows(queue) == 0


def held_rows(queue: NegativeQueue) -> int:
    return len(queue.negatives()[0])


def test_a_copy_with_the_same_state_continues_alike():
    first, second = NegativeQueue(4, 2, 2), NegativeQueue(4, 2, 2)
    push(first, 1, 2, 3)
    second.load_state_dict(first.state_dict())
    for queue in (first, second):
        push(queue, 4, 5)
    assert held(first) == held(second) == [2, 3, 4, 5]


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in module.parameters()]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_momentum_moves_weights_and_copies_buffers(momentum: float):
    torch.manual_seed(0)
    tower, trained = (torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)) for _ in range(2))
    trained(torch.randn(8, 3))
    expected = [
        momentum * old + (1 - momentum) * new for old, new in zip(*map(parameters, (tower, trained)), strict=True)
    ]
    update_momentum(tower, trained, momentum)
    for weight, wanted in zip(tower.parameters(), expected, strict=True):
        torch.testing.assert_close(weight, wanted)
    assert torch.equal(tower[1].running_mean, trained[1].running_mean)
    assert not torch.equal(tower[1].running_mean, torch.zeros(2))
