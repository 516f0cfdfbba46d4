import torch

from coldstart.modules.mlp import Dropout, mlp


def test_dropout_zeroes_a_share_p_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(999, 1001, requires_grad=True)
    out = Dropout(0.1)(ones)
    dropped = out == 0
    assert abs(dropped.float().mean() - 0.1) < 2e-3
    assert abs(out.mean() - 1) < 3e-3
    assert out[~dropped].unique().numel() == 1
    out.sum().backward()
    assert torch.equal(ones.grad == 0, dropped)


def test_dropout_is_the_identity_in_eval_mode_and_for_p_zero():
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_dropout_draws_a_new_mask_per_call_from_the_seed():
    torch.manual_seed(3)
    first, second = Dropout(0.5)(torch.ones(50)), Dropout(0.5)(torch.ones(50))
    torch.manual_seed(3)
    again = Dropout(0.5)(torch.ones(50))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_mlp_starts_at_zero():
    assert torch.equal(mlp(4, (8,), 0.1)(torch.randn(3, 4)), torch.zeros(3, 1))
