from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.data.features import Categorical, FeatureSchema, Numeric
from coldstart.data.item_table import ItemTable
from coldstart.methods.idproxy.scorers import FrozenScorer
from coldstart.rankers import DinDcn
from coldstart.serving.core.golden_requests import CANDIDATES, REQUESTS, _requests, golden_metrics, load_golden_requests
from coldstart.serving.core.scoring import score
from tests.serving.tiny import ITEMS, SHARE, TRAINED, WARMING, proxy_rows, read_run, tiny_recipe, write_run


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    found = {}
    for mode in ("frozen", "joint"):
        recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "golden")
        write_run(recipe, mode=mode)
        found[mode] = read_run(recipe)
    return found


@pytest.fixture(params=["frozen", "joint"])
def release(request, releases):
    return releases[request.param]


def test_online_equals_offline_and_has_a_cost(release):
    metrics = golden_metrics(release)
    assert metrics["online_offline_gap"] < 1e-5
    assert 0 < metrics["rank_cost_ms"] < 1000


def test_requests_are_deterministic_and_contain_new_items(release):
    _, once = load_golden_requests(release).online()
    _, again = load_golden_requests(release).online()
    np.testing.assert_array_equal(once, again)
    assert once.shape == (REQUESTS * CANDIDATES,)
    assert {(query.item_idx > TRAINED).any() for query in load_golden_requests(release).queries()} == {True}


def test_an_item_in_warm_up_blends_its_row_and_its_proxy(releases):
    requests = load_golden_requests(releases["frozen"])
    scorer, query = requests.scorer, requests.queries()[0]
    assert scorer.id_weight[WARMING] == SHARE
    row, proxy = scorer.ranker.id_rows()[WARMING], torch.from_numpy(requests.rows["proxy"][WARMING].copy())
    mixed = proxy_rows((SHARE * row + (1 - SHARE) * proxy)[None].numpy())
    items = replace(query, item_idx=np.full(2, WARMING), item_row=np.ones(2, np.int64), features=None)
    # The same vector as the proxy of an item without an ID row.
    by_hand = replace(items, item_idx=np.zeros(2, np.int64), rows=np.concatenate([mixed, mixed]))
    found = score(scorer, [replace(items, rows=requests.rows[[0, WARMING]]), by_hand])
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.parametrize("mode", ["frozen", "joint"])
def test_other_rows_show_as_a_gap(releases, mode):
    requests = load_golden_requests(releases[mode])
    _, served = requests.online()
    others = requests.rows.copy()
    others["proxy"][TRAINED + 1 :] += 0.5
    gap = np.abs(served - replace(requests, rows=others).offline()).max()
    assert gap > 1e-3


def test_features_are_compared_too(releases):
    schema = FeatureSchema(
        categorical=(Categorical(owner="user", name="country", values=("a", "b")),),
        numeric=(Numeric(owner="context", name="hour", mean=0, scale=1),),
    )
    torch.manual_seed(5)
    release = releases["frozen"]
    ranker = DinDcn(ITEMS + 1, tiny_recipe(release.scorer.path, "features").ranker, schema).eval()
    # The new ranker has no trained rows, so all item vectors are proxies.
    scorer = FrozenScorer(ranker, torch.zeros(ITEMS + 1)).eval()
    featured = replace(load_golden_requests(release), scorer=scorer, sequences=_requests(ITEMS, schema))
    _, served = featured.online()
    np.testing.assert_allclose(served, featured.offline(), atol=1e-5)
    assert {query.features.categorical.shape for query in featured.queries()} == {(CANDIDATES, 1)}


def test_the_items_are_the_first_of_the_item_table(release):
    columns = ItemTable.open(release.items.path).columns
    requests = load_golden_requests(release)
    for name, values in requests.encoded.columns.items():
        assert torch.equal(values, columns[name][: ITEMS + 1])
