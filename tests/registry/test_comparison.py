"""The paired gate: a worse adaptor is refused on the same rows, an equal one passes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.evaluation.metrics import gauc
from coldstart.registry import promote, sentence
from coldstart.registry.comparison import pair

USERS, PER_USER = 200, 30
GATE = Gate(label="cold quality", metric="gauc_item", slice="cold", tolerance=0.01, min_rows=100)


def rows(seed: int, *, noise: float, shuffled: bool = False) -> pa.Table:
    """Scored rows of one dataset, half of them cold.

    Args:
        seed: Of the model; the events are always the same.
        noise: Standard deviation of what the model adds to the truth.
        shuffled: Whether proxies stand at the wrong items.
    """
    events = np.random.default_rng(0)
    count = USERS * PER_USER
    truth, context = events.normal(size=count), events.normal(size=count)
    label = (truth + events.logistic(size=count) > 0).astype(np.int8)
    train_events = np.where(np.arange(count) % 2, 0, 50)
    model = np.random.default_rng(seed)
    slot = truth + noise * model.normal(size=count)
    if shuffled:
        cold = np.flatnonzero(train_events == 0)
        slot[cold] = model.permutation(slot[cold])
    return pa.table(
        {
            "event": np.arange(count),
            "user_idx": np.repeat(np.arange(USERS), PER_USER),
            "label": label,
            "train_events": train_events,
            "age_s": np.full(count, 1e6),
            "logit_release": (context + slot).astype(np.float32),
            "logit_oov": context.astype(np.float32),
        }
    )


def register(run, weights: str, scores: pa.Table) -> int:
    run.make("adaptor", weights)
    cold = scores.filter(pc.equal(scores["train_events"], 0))
    slot = cold["logit_release"].to_numpy() - cold["logit_oov"].to_numpy()
    figure = gauc(cold["user_idx"].to_numpy(), cold["label"].to_numpy(), slot)
    upstream = {"ranker": 1, "encoder": 1}
    return run.register("adaptor", upstream, scores=scores, cold_gauc_item=figure, cold_rows=len(cold)).version


@pytest.fixture
def measured(run):
    """A champion with scored rows."""
    run.register_all(0.6)
    settings = Settings(gates=(GATE,))
    promote(run.registry, "adaptor", register(run, "good", rows(1, noise=0.1)), settings)
    return run, settings


def test_shuffled_proxies_are_refused_with_the_figures(measured):
    run, settings = measured
    version = register(run, "shuffled", rows(2, noise=0.1, shuffled=True))
    record = promote(run.registry, "adaptor", version, settings)
    gate = record.entry.gates[-1]
    assert record.entry.action == "refused"
    assert gate["high"] < -0.1
    assert gate["low"] < gate["figure"] - gate["champion"] < gate["high"]
    assert gate["rows"] == USERS * PER_USER / 2
    assert "on the same 3000 rows" in sentence(record)


def test_an_equal_one_passes_within_the_tolerance(measured):
    run, settings = measured
    record = promote(run.registry, "adaptor", register(run, "equal", rows(3, noise=0.1)), settings)
    gate = record.entry.gates[-1]
    assert record.entry.action == "promoted"
    assert gate["low"] < 0 < gate["high"]
    assert gate["low"] > -0.01


def test_a_slightly_worse_one_is_refused_without_tolerance(measured):
    run, _ = measured
    strict = Settings(gates=(GATE.model_copy(update={"tolerance": 0.0}),))
    record = promote(run.registry, "adaptor", register(run, "noisier", rows(4, noise=0.5)), strict)
    assert record.entry.action == "refused"


def test_the_same_scores_differ_by_nothing():
    found = pair(rows(1, noise=0.1), rows(1, noise=0.1), GATE)
    assert (found.figure - found.champion, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(("metric", "better"), [("gauc", 1), ("gauc_item", 1), ("logloss", -1)])
def test_every_paired_metric_tells_the_better_model(metric, better):
    gate = Gate(label="x", metric=metric, slice="all")
    found = pair(rows(1, noise=0.1), rows(2, noise=2.0), gate)
    assert better * found.low > 0
    assert better * found.high > 0


def test_only_events_that_both_hold_are_compared():
    mine = rows(1, noise=0.1)
    found = pair(mine.slice(0, 3000), mine.slice(1500), Gate(label="x", slice="all"))
    assert found.rows == 1500


def test_rows_of_another_dataset_are_not_the_same_rows(measured):
    run, settings = measured
    run.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "proxies"):
        run.make(kind, "two")
    ranker = run.register("ranker").version
    encoder = run.register("encoder", {"ranker": ranker}).version
    run.make("adaptor", "elsewhere")
    scores = rows(2, noise=0.1, shuffled=True)
    upstream = {"ranker": ranker, "encoder": encoder}
    version = run.register("adaptor", upstream, scores=scores, cold_gauc_item=0.5, cold_rows=3000).version
    gate = promote(run.registry, "adaptor", version, settings).entry.gates[-1]
    assert gate["passed"] is None


def test_a_champion_that_was_replayed_on_the_new_dataset_is_compared_there(measured):
    run, settings = measured
    run.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "proxies", "adaptor"):
        run.make(kind, "two")
    ranker = run.register("ranker").version
    encoder = run.register("encoder", {"ranker": ranker}).version
    scores = rows(2, noise=0.1, shuffled=True)
    upstream = {"ranker": ranker, "encoder": encoder}
    version = run.register("adaptor", upstream, scores=scores, cold_gauc_item=0.5, cold_rows=3000).version
    run.registry.keep_scored_rows(run.registry.version("adaptor", 2).run_id, "e" * 64, rows(1, noise=0.1))
    assert promote(run.registry, "adaptor", version, settings).entry.action == "refused"


@pytest.mark.parametrize(("replayed", "action"), [(1000, "refused"), (100, "promoted")])
def test_rows_of_a_replay_go_first_if_they_are_enough(measured, replayed, action):
    run, settings = measured
    version = register(run, "equal", rows(3, noise=0.1))
    later = {2: rows(1, noise=0.1), version: rows(2, noise=0.1, shuffled=True)}
    run.registry.keep_replay({number: table.slice(0, replayed) for number, table in later.items()}, "f" * 64)
    record = promote(run.registry, "adaptor", version, settings)
    assert record.entry.action == action
    assert record.entry.gates[-1]["rows"] == (500 if action == "refused" else 3000)
