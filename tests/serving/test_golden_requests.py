from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.config import read_artifact
from coldstart.data.features import Categorical, FeatureSchema, Numeric
from coldstart.encoders import read_proxies
from coldstart.encoders.item_embeddings import read_first_proxies
from coldstart.rankers import DinDcn
from coldstart.registry import Release
from coldstart.serving.golden_requests import CANDIDATES, REQUESTS, _requests, golden_metrics, load_golden_requests
from tests.serving.tiny import ITEMS, SHARE, TRAINED, WARMING, tiny_recipe, write_run


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "golden")
    write_run(recipe)
    parts = {kind: read_artifact(recipe.run_dir / kind, kind) for kind in ("ranker", "encoder", "adaptor", "proxies")}
    return Release("golden", None, {"adaptor": 1}, "d" * 64, **parts)


def test_online_equals_offline_and_has_a_cost(release):
    metrics = golden_metrics(release)
    assert metrics["online_offline_gap"] < 1e-5
    assert 0 < metrics["rank_cost_ms"] < 1000


def test_requests_are_deterministic_and_contain_new_items(release):
    _, once = load_golden_requests(release).online()
    _, again = load_golden_requests(release).online()
    np.testing.assert_array_equal(once, again)
    assert once.shape == (REQUESTS * CANDIDATES,)
    assert {len(query.positions) > 0 for query in load_golden_requests(release).queries()} == {True}


def test_an_item_in_warm_up_blends_its_row_and_its_proxy(release):
    requests = load_golden_requests(release)
    assert {share for query in requests.queries() for share in query.id_weight.tolist()} == {0.0, SHARE}
    row, fine = requests.ranker.id_rows()[WARMING], torch.from_numpy(requests.fine[WARMING - 1])
    assert torch.allclose(requests.slots[WARMING], SHARE * row + (1 - SHARE) * fine, atol=1e-6)


def test_other_item_vectors_show_as_a_gap(release):
    requests = load_golden_requests(release)
    _, served = requests.online()
    others = requests.slots.clone()
    others[TRAINED + 1 :] += 0.5
    gap = np.abs(served - replace(requests, slots=others).offline()).max()
    assert gap > 1e-3
    assert torch.equal(requests.slots[: TRAINED + 1], others[: TRAINED + 1])


def test_features_are_compared_too(release):
    schema = FeatureSchema(
        categorical=(Categorical(owner="user", name="country", values=("a", "b")),),
        numeric=(Numeric(owner="context", name="hour", mean=0, scale=1),),
    )
    torch.manual_seed(5)
    ranker = DinDcn(ITEMS + 1, tiny_recipe(release.ranker.path, "features").ranker, schema).eval()
    requests = load_golden_requests(release)
    # The new ranker has no trained rows, so all item vectors are proxies.
    slots = torch.cat([ranker.id_slots(torch.zeros(1, dtype=torch.int64)).detach(), torch.from_numpy(requests.fine)])
    featured = replace(
        requests,
        ranker=ranker,
        slots=slots,
        id_weight=np.zeros(ITEMS + 1, np.float32),
        sequences=_requests(ITEMS, schema),
    )
    _, served = featured.online()
    np.testing.assert_allclose(served, featured.offline(), atol=1e-5)
    assert {query.features.categorical.shape for query in featured.queries()} == {(CANDIDATES, 1)}


def test_first_proxies_belong_to_the_first_items(release):
    coarse, states = read_proxies(release.proxies.path, ITEMS, groups=2)
    first, deep = read_first_proxies(release.proxies.path, 5, groups=2)
    np.testing.assert_array_equal(first, coarse[1:6])
    np.testing.assert_array_equal(deep, states[1:6])
