import pytest
import torch

from coldstart.methods.idproxy.warmup_blend import blend_slots, id_weight, load_id_weight, save_id_weight

EVENTS = torch.tensor([0, 0, 1, 5, 10, 99])
TRAINED = torch.tensor([False, False, True, True, True, True])


@pytest.mark.parametrize(("warmup_events", "weight"), [(0, [0, 0, 1, 1, 1, 1]), (10, [0, 0, 0.1, 0.5, 1, 1])])
def test_the_weight_of_the_id_row_grows_with_events(warmup_events, weight):
    assert id_weight(EVENTS, TRAINED, warmup_events=warmup_events).tolist() == pytest.approx(weight)


def test_an_untrained_row_has_weight_zero():
    assert id_weight(EVENTS, torch.zeros(6, dtype=torch.bool), warmup_events=0).sum() == 0


def test_weights_zero_and_one_keep_the_rows_bit_exact():
    ids, proxies = torch.randn(3, 8), torch.randn(3, 8)
    mixed = blend_slots(ids, proxies, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(mixed[0], proxies[0])
    assert torch.equal(mixed[2], ids[2])
    assert torch.allclose(mixed[1], 0.25 * ids[1] + 0.75 * proxies[1])


def test_weights_are_saved_and_default_to_the_id_row(tmp_path):
    assert load_id_weight(tmp_path, TRAINED).tolist() == [0, 0, 1, 1, 1, 1]
    save_id_weight(id_weight(EVENTS, TRAINED, warmup_events=10), tmp_path)
    assert load_id_weight(tmp_path, TRAINED).tolist() == pytest.approx([0, 0, 0.1, 0.5, 1, 1])


def test_the_weight_is_zero_without_a_trained_row(tmp_path):
    save_id_weight(id_weight(EVENTS, TRAINED, warmup_events=10), tmp_path)
    assert load_id_weight(tmp_path, torch.tensor([False] * 5 + [True])).tolist() == [0, 0, 0, 0, 0, 1]
