import pytest
import torch

from coldstart.alignment.hand_over import blend, id_shares, load_id_shares, save_id_shares

EVENTS = torch.tensor([0, 0, 1, 5, 10, 99])
TRAINED = torch.tensor([False, False, True, True, True, True])


@pytest.mark.parametrize(("until", "shares"), [(0, [0, 0, 1, 1, 1, 1]), (10, [0, 0, 0.1, 0.5, 1, 1])])
def test_the_row_takes_over_with_events(until, shares):
    assert id_shares(EVENTS, TRAINED, until=until).tolist() == pytest.approx(shares)


def test_events_without_a_row_hand_nothing_over():
    assert id_shares(EVENTS, torch.zeros(6, dtype=torch.bool), until=0).sum() == 0


def test_what_is_not_mixed_keeps_its_bits():
    ids, proxies = torch.randn(3, 8), torch.randn(3, 8)
    mixed = blend(ids, proxies, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(mixed[0], proxies[0])
    assert torch.equal(mixed[2], ids[2])
    assert torch.allclose(mixed[1], 0.25 * ids[1] + 0.75 * proxies[1])


def test_shares_come_back_and_an_adaptor_without_them_hands_over_at_once(tmp_path):
    assert load_id_shares(tmp_path, TRAINED).tolist() == [0, 0, 1, 1, 1, 1]
    save_id_shares(id_shares(EVENTS, TRAINED, until=10), tmp_path)
    assert load_id_shares(tmp_path, TRAINED).tolist() == pytest.approx([0, 0, 0.1, 0.5, 1, 1])


def test_shares_of_a_row_that_a_ranker_lacks_are_none(tmp_path):
    save_id_shares(id_shares(EVENTS, TRAINED, until=10), tmp_path)
    assert load_id_shares(tmp_path, torch.tensor([False] * 5 + [True])).tolist() == [0, 0, 0, 0, 0, 1]
