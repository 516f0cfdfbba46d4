import pytest
import torch

from coldstart.alignment import Adaptor, ContentVectors, ProxyVectors
from coldstart.alignment.item_vectors import make_vectors, parameters
from coldstart.config.recipe import AdaptorParts


def proxies(**parts: bool) -> ProxyVectors:
    torch.manual_seed(0)
    return ProxyVectors(Adaptor(8, 3, 16, hidden=32, dropout=0.0, parts=AdaptorParts(**parts)))


def test_proxies_are_the_coarse_one_at_the_length_of_rows_and_the_fine_one():
    vectors = proxies()
    rows = torch.randn(50, 8) * 0.3 + 1
    vectors.start_at(rows)
    coarse = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    states = torch.randn(5, 3, 16)
    found = vectors(coarse, states)
    assert found.shape == (5, 2, 8)
    assert torch.allclose(found[:, 0], coarse * rows.norm(dim=-1).mean())
    assert torch.equal(found[:, 1], vectors.adaptor(coarse, states))


@pytest.mark.parametrize("parts", [{}, {"gate": False}, {"coarse": False, "gate": False}, {"scale": False}])
def test_the_opponent_has_as_many_vectors_and_hardly_more_parameters(parts):
    ours = proxies(**parts)
    content = ContentVectors.matching(ours, dropout=0.0)
    assert content.count == ours.count
    assert parameters(ours) <= parameters(content) <= 1.05 * parameters(ours)


def test_the_opponent_reads_no_coarse_proxy():
    content = ContentVectors.matching(proxies(), dropout=0.0)
    states = torch.randn(5, 3, 16)
    found = content(torch.randn(5, 8), states)
    assert found.shape == (5, 2, 8)
    assert torch.equal(found, content(torch.zeros(5, 8), states))
    assert not torch.allclose(found, content(torch.zeros(5, 8), states.flip(-1)))


@pytest.mark.parametrize("kind", ["proxies", "content"])
def test_vectors_are_made_again_from_their_shape(kind):
    vectors = proxies(gate=False) if kind == "proxies" else ContentVectors.matching(proxies(), dropout=0.0)
    again = make_vectors(kind, vectors.shape)
    again.load_state_dict(vectors.state_dict())
    coarse, states = torch.randn(4, 8), torch.randn(4, 3, 16)
    assert torch.equal(again(coarse, states), vectors(coarse, states))
