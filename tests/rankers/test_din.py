import pytest
import torch

from coldstart.rankers.din import ActivationUnit


@pytest.fixture
def pairs():
    """Slots [2, 3, 6], events [2, 5, 6] and their mask."""
    torch.manual_seed(0)
    history_mask = torch.rand(2, 3, 5) > 0.3
    history_mask[0, 1] = False
    return ActivationUnit(6).double(), torch.randn(2, 3, 6).double(), torch.randn(2, 5, 6).double(), history_mask


def paper_formula(unit, slots, events, history_mask):
    """One hidden layer over target, event and product gives the weight of each event in the sum."""
    first = torch.cat([unit.target.weight, unit.event.weight, unit.product.weight], dim=1)
    slots, past = slots.unsqueeze(2).expand(-1, -1, 5, -1), events.unsqueeze(1).expand(-1, 3, -1, -1)
    hidden = torch.cat([slots, past, slots * past], dim=-1) @ first.T + unit.target.bias
    weight = unit.weight(hidden.relu()).squeeze(-1) * history_mask
    return weight @ events


def test_the_activation_unit_is_one_hidden_layer_over_target_event_and_product(pairs):
    unit, slots, events, history_mask = pairs
    found = unit(slots, events, history_mask)
    assert torch.allclose(found, paper_formula(unit, slots, events, history_mask))
    assert (found[0, 1] == 0).all()  # All events are masked.


def test_its_gradients_equal_those_of_the_formula(pairs):
    unit, slots, events, history_mask = pairs
    inputs = [slots.requires_grad_(), events.requires_grad_(), *unit.parameters()]
    weight = torch.randn(2, 3, 6).double()
    fast = torch.autograd.grad((unit(slots, events, history_mask) * weight).sum(), inputs)
    reference = torch.autograd.grad((paper_formula(unit, slots, events, history_mask) * weight).sum(), inputs)
    for found, expected in zip(fast, reference, strict=True):
        assert torch.allclose(found, expected)


def test_it_trains_in_lower_precision(pairs):
    unit, slots, events, history_mask = pairs
    unit, slots, events = unit.float(), slots.float().requires_grad_(), events.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = unit(slots, events, history_mask)
    exact = unit(slots, events, history_mask)
    assert found.dtype is torch.float32
    assert torch.allclose(found, exact, atol=0.1)
    assert not torch.equal(found, exact)
    (lower,) = torch.autograd.grad(found.sum(), slots)
    (full,) = torch.autograd.grad(exact.sum(), slots)
    assert torch.allclose(lower, full, atol=0.1)
