import json

import pytest
import torch

from coldstart.config import UserError
from coldstart.methods.idproxy.adaptor import Adaptor, load_adaptor, save_adaptor


@pytest.fixture
def adaptor():
    torch.manual_seed(0)
    return Adaptor(8, 3, 16, mlp_units=32, dropout=0.1).eval()


def test_shapes_follow_the_input(adaptor):
    assert adaptor(torch.randn(5, 8), torch.randn(5, 3, 16)).shape == (5, 8)
    assert adaptor(torch.randn(2, 5, 8), torch.randn(2, 5, 3, 16)).shape == (2, 5, 8)


def test_initial_proxies_are_near_the_mean_row(adaptor):
    rows = torch.randn(100, 8) * 0.2 + 3
    adaptor.init_near_mean(rows)
    coarse = torch.nn.functional.normalize(torch.randn(50, 8), dim=-1)
    fine = adaptor(coarse, torch.randn(50, 3, 16))
    spread = (rows - rows.mean(0)).norm(dim=-1).mean()
    assert ((fine - rows.mean(0)).norm(dim=-1) < 0.5 * spread).all()


@pytest.mark.parametrize("part", ["coarse", "first group", "last group"])
def test_every_input_changes_the_output(adaptor, part):
    coarse, states = torch.randn(1, 8), torch.randn(1, 3, 16)
    before = adaptor(coarse, states)
    if part == "coarse":
        coarse = coarse + 1
    else:
        states = states.clone()
        states[:, 0 if part == "first group" else -1] = torch.randn(1, 16)
    assert not torch.allclose(before, adaptor(coarse, states))


def test_the_norm_of_a_layer_state_does_not_matter(adaptor):
    coarse, states = torch.randn(4, 8), torch.randn(4, 3, 16) * 5
    assert torch.allclose(adaptor(coarse, states), adaptor(coarse, states * 7), atol=1e-4)


def test_a_loaded_adaptor_equals_the_saved_one(adaptor, tmp_path):
    save_adaptor(adaptor, tmp_path)
    coarse, states = torch.randn(4, 8), torch.randn(4, 3, 16)
    loaded = load_adaptor(tmp_path)
    assert torch.equal(loaded(coarse, states), adaptor(coarse, states))
    assert not loaded.training


def test_a_damaged_adaptor_is_refused(adaptor, tmp_path):
    with pytest.raises(UserError, match="align_fine"):
        load_adaptor(tmp_path)
    save_adaptor(adaptor, tmp_path)
    (tmp_path / "adaptor.json").write_text(json.dumps(adaptor.config | {"groups": 2}))
    with pytest.raises(UserError, match="complete adaptor"):
        load_adaptor(tmp_path)
