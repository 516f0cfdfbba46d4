import pytest
import torch

from coldstart.config.recipe import AdaptorAblation
from coldstart.methods.idproxy.adaptor import Adaptor
from coldstart.methods.idproxy.item_vectors import ContentVectors, ProxyVectors, make_vectors, num_trainable


def proxies(**ablate: bool) -> ProxyVectors:
    torch.manual_seed(0)
    return ProxyVectors(Adaptor(8, 3, 16, mlp_units=32, dropout=0.0, ablate=AdaptorAblation(**ablate)))


def test_proxies_are_the_coarse_one_at_the_length_of_rows_and_the_fine_one():
    vectors = proxies()
    rows = torch.randn(50, 8) * 0.3 + 1
    vectors.init_near_mean(rows)
    coarse = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    states = torch.randn(5, 3, 16)
    found = vectors(coarse, states)
    assert found.shape == (5, 2, 8)
    assert torch.allclose(found[:, 0], coarse * rows.norm(dim=-1).mean())
    assert torch.equal(found[:, 1], vectors.adaptor(coarse, states))


@pytest.mark.parametrize("ablate", [{}, {"gate": True}, {"coarse": True, "gate": True}, {"scale": True}])
def test_content_vectors_have_the_same_count_and_parameter_budget(ablate):
    proxy_vectors = proxies(**ablate)
    content = ContentVectors.with_param_budget(proxy_vectors, dropout=0.0)
    assert content.count == proxy_vectors.count
    assert num_trainable(proxy_vectors) <= num_trainable(content) <= 1.05 * num_trainable(proxy_vectors)


def test_content_vectors_ignore_the_coarse_proxy():
    content = ContentVectors.with_param_budget(proxies(), dropout=0.0)
    states = torch.randn(5, 3, 16)
    found = content(torch.randn(5, 8), states)
    assert found.shape == (5, 2, 8)
    assert torch.equal(found, content(torch.zeros(5, 8), states))
    assert not torch.allclose(found, content(torch.zeros(5, 8), states.flip(-1)))


@pytest.mark.parametrize("kind", ["proxies", "content"])
def test_vectors_are_created_again_from_their_config(kind):
    vectors = proxies(gate=True) if kind == "proxies" else ContentVectors.with_param_budget(proxies(), dropout=0.0)
    again = make_vectors(kind, vectors.config)
    again.load_state_dict(vectors.state_dict())
    coarse, states = torch.randn(4, 8), torch.randn(4, 3, 16)
    assert torch.equal(again(coarse, states), vectors(coarse, states))
