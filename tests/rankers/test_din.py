import pytest
import torch

from coldstart.rankers.din import ActivationUnit


@pytest.fixture
def pairs():
    """Slots [2, 3, 6], events [2, 5, 6] and what is visible of them."""
    torch.manual_seed(0)
    visible = torch.rand(2, 3, 5) > 0.3
    visible[0, 1] = False
    return ActivationUnit(6).double(), torch.randn(2, 3, 6).double(), torch.randn(2, 5, 6).double(), visible


def as_in_the_paper(unit, slots, events, visible):
    """One hidden layer over target, event and their product, pair by pair; the events are then summed by it."""
    first = torch.cat([unit.target.weight, unit.event.weight, unit.product.weight], dim=1)
    slots, past = slots.unsqueeze(2).expand(-1, -1, 5, -1), events.unsqueeze(1).expand(-1, 3, -1, -1)
    hidden = torch.cat([slots, past, slots * past], dim=-1) @ first.T + unit.target.bias
    weight = unit.weight(hidden.relu()).squeeze(-1) * visible
    return weight @ events


def test_the_activation_unit_is_one_hidden_layer_over_target_event_and_product(pairs):
    unit, slots, events, visible = pairs
    found = unit(slots, events, visible)
    assert torch.allclose(found, as_in_the_paper(unit, slots, events, visible))
    assert (found[0, 1] == 0).all()  # It sees nothing.


def test_its_gradients_are_those_of_the_formula(pairs):
    unit, slots, events, visible = pairs
    inputs = [slots.requires_grad_(), events.requires_grad_(), *unit.parameters()]
    weight = torch.randn(2, 3, 6).double()
    ours = torch.autograd.grad((unit(slots, events, visible) * weight).sum(), inputs)
    theirs = torch.autograd.grad((as_in_the_paper(unit, slots, events, visible) * weight).sum(), inputs)
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference)


def test_it_trains_in_lower_precision(pairs):
    unit, slots, events, visible = pairs
    unit, slots, events = unit.float(), slots.float().requires_grad_(), events.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = unit(slots, events, visible)
    exact = unit(slots, events, visible)
    assert found.dtype is torch.float32
    assert torch.allclose(found, exact, atol=0.1)
    assert not torch.equal(found, exact)
    (lower,) = torch.autograd.grad(found.sum(), slots)
    (whole,) = torch.autograd.grad(exact.sum(), slots)
    assert torch.allclose(lower, whole, atol=0.1)
