import numpy as np
import pytest
import torch

from coldstart.alignment.warmup_blend import id_weight
from coldstart.evaluation.variant_tables import variant_tables
from coldstart.evaluation.variants import DESCRIPTIONS, JOINT, ORACLES
from coldstart.rankers.interface import Ranker


def _tables(ranker: Ranker, until: int = 0, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    proxies = torch.nn.functional.normalize(torch.randn(21, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    events = np.array([0] + [50] * 17 + [0] * 3)
    vectors = {"mapped": proxies * 2, "coarse": proxies, "fine": proxies * 3, **changed}
    shares = id_weight(torch.from_numpy(events), ranker.trained, warmup_events=until)
    return variant_tables(ranker, id_weight=shares, mature=events >= 20, **vectors)


def test_every_named_variant_that_the_ranker_scores_has_a_table(ranker: Ranker) -> None:
    assert [*_tables(ranker), *ORACLES] == [name for name in DESCRIPTIONS if name != JOINT]


def test_tables_have_the_vectors_of_their_variant(ranker: Ranker) -> None:
    tables = _tables(ranker)
    ids = ranker.id_rows()
    assert torch.equal(tables["oov"], ids[:1].expand(21, 6))
    assert torch.equal(tables["id"][1:18], ids[1:18])
    assert torch.equal(tables["id"][18:], ids[:1].expand(3, 6))
    assert torch.equal(tables["release"][1:18], ids[1:18])
    assert torch.equal(tables["release"][18:], tables["fine"][18:])
    assert tables["coarse"][1:].norm(dim=-1).mean() == pytest.approx(ids[1:18].norm(dim=-1).mean().item(), rel=1e-5)


def test_release_blends_to_the_id_row_of_warm_items(ranker: Ranker) -> None:
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
