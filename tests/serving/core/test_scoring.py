from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.data.batches import UserWindows, rank_request
from coldstart.data.features import NO_FEATURES
from coldstart.data.item_table import ColumnSpec
from coldstart.methods.idproxy.scorers import FrozenScorer
from coldstart.rankers import Ranker
from coldstart.rankers.ranker_classes import RANKERS
from coldstart.serving.core.scoring import RankQuery, collate, golden_query, score
from coldstart.serving.store.row_layout import pack_rows
from tests.events import Events
from tests.serving.tiny import HISTORY, ITEMS, TRAINED, proxy_rows, tiny_recipe


@pytest.fixture(params=list(RANKERS))
def ranker(request, tmp_path) -> Ranker:
    torch.manual_seed(3)
    model = RANKERS[request.param](ITEMS + 1, tiny_recipe(tmp_path, "scoring").ranker).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.trained[1 : TRAINED + 1] = True
    return model


@pytest.fixture
def scorer(ranker) -> FrozenScorer:
    return FrozenScorer(ranker, ranker.trained.float()).eval()


def query(rng: np.random.Generator, seen: int, targets: int, width: int = 8) -> RankQuery:
    """A query in which about a third of the candidates have a row, and half of the history."""
    known, read = (np.flatnonzero(rng.random(count) < share) for count, share in ((targets, 0.3), (seen, 0.5)))
    item_row, history_row = np.zeros(targets, np.int64), np.zeros(seen, np.int64)
    item_row[known], history_row[read] = np.arange(len(known)) + 1, np.arange(len(read)) + 1 + len(known)
    return RankQuery(
        rng.integers(0, ITEMS + 1, seen),
        rng.integers(0, 2, seen),
        rng.integers(100, 200, seen),
        rng.integers(0, ITEMS + 1, targets),
        180,
        proxy_rows(rng.normal(size=(len(known) + len(read) + 1, width))),
        item_row,
        history_row,
    )


def test_queries_scored_in_a_batch_equal_queries_scored_alone(scorer):
    rng = np.random.default_rng(5)
    queries = [query(rng, seen, targets) for seen, targets in ((0, 1), (3, 7), (20, 2), (6, 4))]
    together = score(scorer, queries)
    for request, answer in zip(queries, together, strict=True):
        np.testing.assert_allclose(answer, score(scorer, [request])[0], atol=1e-6)


def test_collated_rows_equal_single_requests():
    rng = np.random.default_rng(8)
    queries = [query(rng, seen, targets) for seen, targets in ((0, 3), (4, 1), (30, 5))]
    queries.append(replace(queries[2], history_time=np.sort(queries[2].history_time), now=10**6))
    together = collate(queries, HISTORY, NO_FEATURES)
    rows = np.concatenate([queries[0].rows, *(one.rows[1:] for one in queries[1:])])
    for number, one in enumerate(queries):
        times = one.history_time
        alone = rank_request(one.history_idx, one.history_label, times, one.item_idx, one.now, history=HISTORY)
        for field in fields(alone):
            wanted, got = getattr(alone, field.name)[0], getattr(together, field.name)[number]
            assert got.dtype == wanted.dtype
            got = got[tuple(slice(length) for length in wanted.shape)]
            if not field.name.endswith("_row"):
                np.testing.assert_array_equal(got, wanted)
        # The same rows, in the table of all queries.
        first = rank_request(one.history_row, one.history_label, times, one.item_row, one.now, history=HISTORY)
        for name in ("target", "history"):
            own = getattr(first, f"{name}_idx")[0].numpy()
            wanted = np.where(own > 0, one.rows["proxy"][own].T, 0)
            got = getattr(together, f"{name}_row")[number].numpy()[: wanted.shape[1]]
            np.testing.assert_array_equal(np.where(got > 0, rows["proxy"][got].T, 0), wanted)


def test_a_row_changes_only_its_candidate(scorer):
    plain = replace(query(np.random.default_rng(6), 4, 3), rows=proxy_rows(np.full((2, 8), 2.0)), history_row=None)
    plain = replace(plain, item_idx=np.array([1, ITEMS, 2]), item_row=np.zeros(3, np.int64))
    before, after = (score(scorer, [one])[0] for one in (plain, replace(plain, item_row=np.array([1, 1, 0]))))
    assert before[1] != after[1]
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])


def test_a_candidate_blends_its_id_row_and_its_proxy(ranker):
    rng = np.random.default_rng(6)
    weight = torch.zeros(ITEMS + 1)
    weight[1] = 0.25
    request = replace(query(rng, 4, 3), item_idx=np.array([1, ITEMS, 0]), history_row=None)
    request = replace(request, item_row=np.array([1, 2, 0]), rows=proxy_rows(rng.normal(size=(3, 8))))
    rows = request.rows.copy()
    rows["proxy"][1] = 0.25 * ranker.id_rows()[1].numpy() + 0.75 * rows["proxy"][1]
    whole, found = (score(FrozenScorer(ranker, one), [request])[0] for one in (torch.zeros(ITEMS + 1), weight))
    wanted = score(FrozenScorer(ranker, torch.zeros(ITEMS + 1)), [replace(request, rows=rows)])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert abs(found[0] - whole[0]) > 1e-6
    np.testing.assert_array_equal(found[1:], whole[1:])


def test_rows_without_a_column_of_the_scorer_are_refused(scorer):
    other = {"content": ColumnSpec("float32", (8,))}
    request = query(np.random.default_rng(6), 4, 3)
    rows = pack_rows({"content": np.zeros((len(request.rows), 8))}, other)
    with pytest.raises(UserError, match=r"the scorer reads the column 'proxy'.*has only content"):
        score(scorer, [replace(request, rows=rows)])


def test_scores_equal_the_offline_scores_of_the_same_rows(ranker, scorer):
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
    rows = proxy_rows(np.zeros((1, 8)))
    for at in range(count):
        request = RankQuery(
            events.item_idx,
            events.label,
            events.timestamp,
            events.item_idx[at : at + 1],
            int(events.timestamp[at]),
            rows,
            np.zeros(1, np.int64),
        )
        assert score(scorer, [request])[0][0] == pytest.approx(offline[at], abs=1e-5)


def test_any_scorer_scores_the_golden_query(scorer):
    assert np.isfinite(score(scorer, [golden_query(proxy_rows(np.ones((1, 8)))[0])])[0]).all()
