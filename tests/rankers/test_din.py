import torch

from coldstart.rankers.din import ActivationUnit


def test_the_activation_unit_is_one_hidden_layer_over_target_event_and_product():
    torch.manual_seed(0)
    unit = ActivationUnit(6)
    slots, events = torch.randn(2, 3, 6), torch.randn(2, 5, 6)
    found = unit(slots, events)
    first = torch.cat([unit.target.weight, unit.event.weight, unit.product.weight], dim=1)
    for row, target, event in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        slot, past = slots[row, target], events[row, event]
        hidden = first @ torch.cat([slot, past, slot * past]) + unit.target.bias
        expected = unit.weight(hidden.relu())
        assert torch.allclose(found[row, event, target], expected[0], atol=1e-6)
