import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import adapt
from coldstart.methods.saviorrec.content_encoder import principal_axes
from coldstart.methods.saviorrec.item_encoder import SemanticIds, check_matches, load_pool, save_pool
from coldstart.methods.saviorrec.model import CODES, CONTENT, NO_CODE
from coldstart.modules.residual_quantizer import RQKMeans

ITEMS, WIDTH, SIZES = 300, 8, (6, 4)


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    made = RQKMeans(WIDTH, SIZES)
    for codebook in made.codebooks:
        torch.nn.init.normal_(codebook, std=0.3)
    return made.requires_grad_(False).eval()


@pytest.fixture
def items():
    content = torch.nn.functional.normalize(torch.randn(ITEMS + 1, WIDTH, generator=torch.Generator().manual_seed(1)))
    content[0] = 0
    return ItemTable({CONTENT: content})


def test_codes_are_those_of_the_quantizer_from_one_and_none_for_the_unknown_item(quantizer, items):
    table = adapt(SemanticIds(quantizer), items)
    assert table.specs == SemanticIds(quantizer).outputs
    assert torch.equal(table.columns[CONTENT], items.columns[CONTENT])
    assert torch.equal(table.columns[CODES][1:], quantizer.encode(items.columns[CONTENT])[1:] + 1)
    assert (table.columns[CODES][0] == NO_CODE).all()
    assert table.columns[CODES][1:].min() == 1


def test_shuffled_codes_keep_how_often_a_code_occurs_but_not_where(quantizer, items, tmp_path):
    own = adapt(SemanticIds(quantizer), items).columns[CODES]
    save_pool(own[1:], tmp_path)
    shuffled = SemanticIds(quantizer, load_pool(tmp_path))
    codes = adapt(shuffled, items).columns[CODES]
    assert (codes[0] == NO_CODE).all()
    assert 0.05 < (codes[1:] == own[1:]).all(1).float().mean() < 0.5
    ids = {tuple(row) for row in own[1:].tolist()}
    assert {tuple(row) for row in codes[1:].tolist()} <= ids
    # An item that is published alone has the same codes.
    alone = torch.cat([shuffled({CONTENT: items.columns[CONTENT][at : at + 1]})[CODES] for at in range(1, 20)])
    assert torch.equal(alone, codes[1:20])
    assert load_pool(tmp_path / "none") is None


def test_a_scorer_of_another_quantizer_is_refused(quantizer):
    check_matches(quantizer, WIDTH, list(SIZES))
    with pytest.raises(UserError, match=r"codebooks of \(6, 5\) codes .* its quantizer has \(6, 4\) for width 8"):
        check_matches(quantizer, WIDTH, (6, 5))
    with pytest.raises(UserError, match="content vectors of width 9"):
        check_matches(quantizer, 9, SIZES)


def test_principal_axes_equal_those_of_the_covariance():
    rng = np.random.default_rng(0)
    states = torch.from_numpy(rng.normal(size=(200, 6)) * np.array([3, 2, 1, 0.5, 0.2, 0.1]) + 7)
    center, axes, kept = principal_axes(states, 3)
    values, vectors = np.linalg.eigh(np.cov(states.numpy().T))
    assert torch.allclose(center, states.mean(0))
    assert kept == pytest.approx(values[::-1][:3].sum() / values.sum())
    for axis, vector in zip(axes.numpy(), vectors.T[::-1], strict=False):
        assert abs(axis @ vector) == pytest.approx(1)
        assert axis[np.abs(axis).argmax()] > 0
