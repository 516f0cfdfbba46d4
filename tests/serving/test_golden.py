from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.config import read_artifact
from coldstart.data.features import Categorical, FeatureSchema, Numeric
from coldstart.encoders import read_proxies
from coldstart.encoders.proxies import first_proxies
from coldstart.rankers import DinDcn
from coldstart.registry import Release
from coldstart.serving.golden import CANDIDATES, REQUESTS, _requests, golden, golden_figures
from tests.serving.tiny import ITEMS, SHARE, TRAINED, WARMING, tiny_recipe, write_run


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "golden")
    write_run(recipe)
    parts = {kind: read_artifact(recipe.run_dir / kind, kind) for kind in ("ranker", "encoder", "adaptor", "proxies")}
    return Release("golden", None, {"adaptor": 1}, "d" * 64, **parts)


def test_served_equals_offline_and_costs_something(release):
    figures = golden_figures(release)
    assert figures["golden_parity"] < 1e-5
    assert 0 < figures["golden_ms"] < 1000


def test_requests_are_the_same_every_time_and_show_trained_and_new_items(release):
    _, once = golden(release).served()
    _, again = golden(release).served()
    np.testing.assert_array_equal(once, again)
    assert once.shape == (REQUESTS * CANDIDATES,)
    assert {len(query.positions) > 0 for query in golden(release).queries()} == {True}


def test_a_warming_item_has_both_its_row_and_its_proxy(release):
    drawn = golden(release)
    assert {share for query in drawn.queries() for share in query.id_shares.tolist()} == {0.0, SHARE}
    row, fine = drawn.ranker.id_rows()[WARMING], torch.from_numpy(drawn.fine[WARMING - 1])
    assert torch.allclose(drawn.slots[WARMING], SHARE * row + (1 - SHARE) * fine, atol=1e-6)


def test_a_path_that_sees_other_vectors_shows_in_the_parity(release):
    drawn = golden(release)
    _, served = drawn.served()
    others = drawn.slots.clone()
    others[TRAINED + 1 :] += 0.5
    gap = np.abs(served - replace(drawn, slots=others).offline()).max()
    assert gap > 1e-3
    assert torch.equal(drawn.slots[: TRAINED + 1], others[: TRAINED + 1])


def test_features_are_part_of_the_parity(release):
    schema = FeatureSchema(
        categorical=(Categorical(owner="user", name="country", values=("a", "b")),),
        numeric=(Numeric(owner="context", name="hour", mean=0, scale=1),),
    )
    torch.manual_seed(5)
    ranker = DinDcn(ITEMS + 1, tiny_recipe(release.ranker.path, "features").ranker, schema).eval()
    drawn = golden(release)
    # A ranker that has no rows yet is given proxies only.
    slots = torch.cat([ranker.id_slots(torch.zeros(1, dtype=torch.int64)).detach(), torch.from_numpy(drawn.fine)])
    featured = replace(
        drawn,
        ranker=ranker,
        slots=slots,
        id_shares=np.zeros(ITEMS + 1, np.float32),
        sequences=_requests(ITEMS, schema),
    )
    _, served = featured.served()
    np.testing.assert_allclose(served, featured.offline(), atol=1e-5)
    assert {query.features.categorical.shape for query in featured.queries()} == {(CANDIDATES, 1)}


def test_first_proxies_are_those_of_the_first_items(release):
    coarse, states = read_proxies(release.proxies.path, ITEMS, groups=2)
    first, deep = first_proxies(release.proxies.path, 5, groups=2)
    np.testing.assert_array_equal(first, coarse[1:6])
    np.testing.assert_array_equal(deep, states[1:6])
