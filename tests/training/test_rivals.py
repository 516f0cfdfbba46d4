import numpy as np
import pytest
import torch

from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows
from coldstart.evaluation.metrics import gauc
from coldstart.rankers import digest
from coldstart.training.click_loop import score_rows
from coldstart.training.rivals import KINDS, Given, make_rival
from tests.training.clicks import low_rank_clicks, small_ranker
from tests.training.test_fine_loop import FINE, proxies


@pytest.fixture(scope="module")
def given() -> Given:
    clicks = low_rank_clicks(users=120, cold=12)
    ranker = small_ranker(clicks, epochs=2)[0]
    fine = Fine(**FINE | {"epochs": 1, "joint": {"epochs": 1}})
    return Given(ranker, clicks, *proxies(clicks), ranker.trained.numpy(), fine, 1, gauc)


def test_grids_are_equally_large() -> None:
    assert {len(kind.grid) for name, kind in KINDS.items() if name not in ("oov", "mean_row")} == {4}


@pytest.mark.parametrize("name", KINDS)
def test_items_without_an_id_are_served_what_the_rival_says(given: Given, name: str) -> None:
    before = digest(given.ranker)
    rival = make_rival(name, given, KINDS[name].grid[0])
    assert digest(given.ranker) == before
    cold = ~given.ranker.trained
    cold[0] = False
    assert torch.equal(rival.served[cold], rival.cold[cold])
    assert rival.served.isfinite().all()
    assert 0 <= rival.valid_gauc(given) <= 1
    assert (rival.parameters > 0) == KINDS[name].clicks == (rival.epochs > 0)


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith(("joint", "content"))])
def test_the_ranker_serves_items_with_an_id_as_before(given: Given, name: str) -> None:
    rival = make_rival(name, given, KINDS[name].grid[0])
    test = UserWindows(given.sequences, history=12, splits=[2])
    known = given.ranker.trained.numpy()[given.sequences.item_idx[test.rows]]
    assert 0 < known.sum() < len(known)
    ours = score_rows(lambda batch, step: rival.model(batch, rival.served[batch.target_idx]), test)
    base = score_rows(lambda batch, step: given.ranker(batch, given.ranker.id_slots(batch.target_idx)), test)
    assert np.allclose(ours[known], base[known], atol=1e-5)


def test_appeal_alone_is_the_same_for_every_user(given: Given) -> None:
    rival = make_rival("appeal", given, KINDS["appeal"].grid[0])
    batch = UserWindows(given.sequences, history=12, splits=[2]).batch([0, 1, 2])
    with torch.no_grad():
        added = rival.model(batch, rival.cold[batch.target_idx]) - rival.model(
            batch, rival.cold[torch.zeros_like(batch.target_idx)]
        )
    assert torch.allclose(added, rival.cold[batch.target_idx][..., -1], atol=1e-5)


def test_labels_of_the_test_part_change_nothing(given: Given) -> None:
    from dataclasses import replace

    clicks = given.sequences
    other = replace(clicks, label=np.where(clicks.split == 2, 1 - clicks.label, clicks.label))
    for name in ("appeal", "fine", "joint", "content_feature"):
        one, two = (make_rival(name, replace(given, sequences=each), KINDS[name].grid[0]) for each in (clicks, other))
        assert torch.equal(one.served, two.served), name
        assert one.valid_gauc(given) == two.valid_gauc(given)
