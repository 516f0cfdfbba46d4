import pytest
import torch

from coldstart.config.recipe import AdaptorAblation
from coldstart.methods.idproxy.adaptor import Adaptor
from coldstart.methods.idproxy.adaptor_stats import adaptor_stats, adaptor_text

N, D = 200, 4


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(N, D), torch.randn(N, 2, 8), torch.randn(50, D) * 3


def test_saturated_gates_count_as_open_and_closed() -> None:
    adaptor = Adaptor(D, 2, 8, mlp_units=16, dropout=0.0).eval()
    with torch.no_grad():
        assert adaptor.gate is not None
        adaptor.gate.weight.zero_()
        adaptor.gate.bias.copy_(torch.tensor([9.0, 9.0, -9.0, 0.0]))
        adaptor.log_scale.fill_(2.0)
    found = adaptor_stats(adaptor, *_inputs())
    gate = found["gate"]
    assert (gate["directions_open"], gate["directions_closed"]) == (2, 1)
    assert (gate["open"], gate["closed"]) == (0.5, 0.25)
    assert gate["by_direction"] == pytest.approx([1, 1, 0, 0.5], abs=1e-3)
    assert found["scale"] == pytest.approx(7.389, abs=1e-3)
    assert found["items"] == N


def test_lengths_and_spreads_are_those_of_the_proxies() -> None:
    adaptor = Adaptor(D, 2, 8, mlp_units=16, dropout=0.0).eval()
    coarse, states, ids = _inputs()
    with torch.no_grad():
        adaptor.offset.fill_(10.0)
        fine = adaptor(coarse, states)
    found = adaptor_stats(adaptor, coarse, states, ids)
    assert found["length"] == pytest.approx(float(fine.norm(dim=-1).median()))
    assert found["spread"] == pytest.approx(float((fine - fine.mean(0)).square().sum(-1).mean().sqrt()))
    assert found["id_spread"] == pytest.approx(6, abs=0.7)
    assert not adaptor.gate._forward_hooks


def test_an_adaptor_without_a_gate_has_no_gate_statistics() -> None:
    adaptor = Adaptor(D, 2, 8, mlp_units=16, dropout=0.0, ablate=AdaptorAblation(gate=True)).eval()
    assert adaptor_stats(adaptor, *_inputs())["gate"] is None


def test_the_paragraph_has_the_numbers() -> None:
    gate = {"mean": 0.5, "open": 0.0, "closed": 0.01, "by_direction": [0.3, 0.7]}
    stats = {"items": 700, "gate": gate, "length": 0.4, "id_length": 0.8, "spread": 0.3, "id_spread": 0.6}
    text = adaptor_text(stats)
    assert "passes 50% of the contribution of the layer states (30% to 70% by direction)" in text
    assert "mixes the two sources" in text
    assert "50% of the length of mature ID rows and 50% of their spread" in text
    assert adaptor_text({**stats, "gate": None}).startswith("Fine proxies of cold items have 50%")
    assert "mixes" not in adaptor_text({**stats, "gate": {**gate, "closed": 0.2}})
