import numpy as np
import pytest
import torch

from coldstart.alignment.hand_over import id_shares
from coldstart.evaluation.slots import slot_tables
from coldstart.evaluation.variants import JOINT, MEANINGS, ORACLES
from coldstart.rankers.interface import Ranker


def _tables(ranker: Ranker, until: int = 0, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    proxies = torch.nn.functional.normalize(torch.randn(21, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    events = np.array([0] + [50] * 17 + [0] * 3)
    given = {"mapped": proxies * 2, "coarse": proxies, "fine": proxies * 3, **changed}
    shares = id_shares(torch.from_numpy(events), ranker.trained, until=until)
    return slot_tables(ranker, id_shares=shares, mature=events >= 20, **given)


def test_every_named_variant_that_the_ranker_scores_has_a_table(ranker: Ranker) -> None:
    assert [*_tables(ranker), *ORACLES] == [name for name in MEANINGS if name != JOINT]


def test_tables_hold_what_their_names_say(ranker: Ranker) -> None:
    tables = _tables(ranker)
    ids = ranker.id_rows()
    assert torch.equal(tables["oov"], ids[:1].expand(21, 6))
    assert torch.equal(tables["id"][1:18], ids[1:18])
    assert torch.equal(tables["id"][18:], ids[:1].expand(3, 6))
    assert torch.equal(tables["release"][1:18], ids[1:18])
    assert torch.equal(tables["release"][18:], tables["fine"][18:])
    assert tables["coarse"][1:].norm(dim=-1).mean() == pytest.approx(ids[1:18].norm(dim=-1).mean().item(), rel=1e-5)


def test_what_is_served_hands_over_and_leaves_warm_items_alone(ranker: Ranker) -> None:
    tables, done = _tables(ranker, until=100), _tables(ranker, until=50)
    assert torch.allclose(tables["release"][1:18], (tables["id"][1:18] + tables["fine"][1:18]) / 2)
    assert torch.equal(tables["release"][18:], tables["fine"][18:])
    assert torch.equal(done["release"], _tables(ranker)["release"])


def test_row_zero_is_oov_in_every_table(ranker: Ranker) -> None:
    for table in _tables(ranker).values():
        assert torch.equal(table[0], ranker.id_rows()[0])


def test_a_table_of_another_width_is_refused(ranker: Ranker) -> None:
    with pytest.raises(ValueError, match=r"fine rows have shape \(21, 5\)"):
        _tables(ranker, fine=torch.zeros(21, 5))
