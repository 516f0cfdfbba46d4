from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from coldstart.data.batches import UserWindows, rank_request
from coldstart.data.features import NO_FEATURES
from coldstart.rankers import Ranker
from coldstart.rankers.ranker_classes import RANKERS
from coldstart.serving.scoring import RankQuery, collate, golden_query, score
from tests.events import Events
from tests.serving.tiny import HISTORY, ITEMS, TRAINED, tiny_recipe


@pytest.fixture(params=list(RANKERS))
def ranker(request, tmp_path) -> Ranker:
    torch.manual_seed(3)
    model = RANKERS[request.param](ITEMS + 1, tiny_recipe(tmp_path, "scoring").ranker).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.trained[1 : TRAINED + 1] = True
    return model


def query(rng: np.random.Generator, seen: int, targets: int, width: int = 8) -> RankQuery:
    positions = np.flatnonzero(rng.random(targets) < 0.3)
    return RankQuery(
        rng.integers(0, ITEMS + 1, seen),
        rng.integers(0, 2, seen),
        rng.integers(100, 200, seen),
        rng.integers(0, ITEMS + 1, targets),
        180,
        positions,
        rng.normal(size=(len(positions), width)).astype(np.float32),
    )


def test_queries_scored_in_a_batch_equal_queries_scored_alone(ranker):
    rng = np.random.default_rng(5)
    queries = [query(rng, seen, targets) for seen, targets in ((0, 1), (3, 7), (20, 2), (6, 4))]
    together = score(ranker, queries, history=HISTORY)
    for request, answer in zip(queries, together, strict=True):
        np.testing.assert_allclose(answer, score(ranker, [request], history=HISTORY)[0], atol=1e-6)


def test_collated_rows_equal_single_requests():
    rng = np.random.default_rng(8)
    queries = [query(rng, seen, targets) for seen, targets in ((0, 3), (4, 1), (30, 5))]
    queries.append(replace(queries[2], history_time=np.sort(queries[2].history_time), now=10**6))
    together = collate(queries, HISTORY, NO_FEATURES)
    for row, one in enumerate(queries):
        times = one.history_time
        alone = rank_request(one.history_idx, one.history_label, times, one.item_idx, one.now, history=HISTORY)
        for field in fields(alone):
            wanted, got = getattr(alone, field.name)[0], getattr(together, field.name)[row]
            assert got.dtype == wanted.dtype
            got = got[tuple(slice(length) for length in wanted.shape)]
            np.testing.assert_array_equal(got, wanted)


def test_a_proxy_changes_only_its_candidate(ranker):
    rng = np.random.default_rng(6)
    plain = query(rng, 4, 3)
    plain = RankQuery(
        *[getattr(plain, f) for f in ("history_idx", "history_label", "history_time", "item_idx", "now")],
        np.zeros(0, np.int64),
        np.zeros((0, 8), np.float32),
    )
    proxied = RankQuery(
        plain.history_idx,
        plain.history_label,
        plain.history_time,
        plain.item_idx,
        plain.now,
        np.array([1]),
        np.full((1, 8), 2.0, np.float32),
    )
    before, after = (score(ranker, [q], history=HISTORY)[0] for q in (plain, proxied))
    assert before[1] != after[1]
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])


def test_a_candidate_blends_its_row_and_its_proxy(ranker):
    rng = np.random.default_rng(6)
    request = replace(query(rng, 4, 3), item_idx=np.array([1, 2, 0]), positions=np.array([0, 1]))
    request = replace(request, proxies=rng.normal(size=(2, 8)).astype(np.float32))
    mixed = replace(request, id_weight=np.array([0.25, 0], np.float32))
    row = ranker.id_rows()[1].numpy()
    by_hand = replace(request, proxies=np.stack([0.25 * row + 0.75 * request.proxies[0], request.proxies[1]]))
    whole, found, wanted = (score(ranker, [one], history=HISTORY)[0] for one in (request, mixed, by_hand))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert abs(found[0] - whole[0]) > 1e-6
    np.testing.assert_array_equal(found[1:], whole[1:])


def test_scores_equal_the_offline_scores_of_the_same_rows(ranker):
    rng = np.random.default_rng(7)
    count = 30
    events = Events(
        np.array([0, count]),
        rng.integers(1, ITEMS + 1, count),
        rng.integers(0, 2, count),
        np.sort(rng.integers(1000, 1020, count)),
        np.zeros(count, np.int8),
    )
    offline = np.zeros(count, np.float32)
    for batch in UserWindows(events, history=HISTORY, splits=[0], targets=8).iter_eval(windows_per_step=4):
        with torch.inference_mode():
            probabilities = torch.sigmoid(ranker(batch, ranker.id_slots(batch.target_idx)))
        kept = batch.weight > 0
        offline[batch.event_index[kept].numpy()] = probabilities[kept].numpy()
    none, no_proxies = np.zeros(0, np.int64), np.zeros((0, 8), np.float32)
    for at in range(count):
        request = RankQuery(
            events.item_idx,
            events.label,
            events.timestamp,
            events.item_idx[at : at + 1],
            int(events.timestamp[at]),
            none,
            no_proxies,
        )
        assert score(ranker, [request], history=HISTORY)[0][0] == pytest.approx(offline[at], abs=1e-5)


def test_any_ranker_scores_the_golden_query(ranker):
    assert np.isfinite(score(ranker, [golden_query(np.ones(8, np.float32))], history=HISTORY)[0]).all()
