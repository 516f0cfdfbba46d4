"""The paired gate refuses a worse scorer on the same rows, and passes an equal one."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from coldstart.config.recipe import Gate
from coldstart.config.recipe import Registry as Settings
from coldstart.metrics.clicks import gauc
from coldstart.registry import describe_event, promote
from coldstart.registry.paired_comparison import paired_difference
from coldstart.registry.scored_rows import log_replay, log_scored_rows
from tests.registry.conftest import Snapshot

USERS, PER_USER = 200, 30
GATE = Gate(name="cold quality", metric="gauc_item", slice="cold", tolerance=0.01, min_rows=100)


def rows(seed: int, *, noise: float, shuffled: bool = False) -> pa.Table:
    """Scored rows of one dataset, half of them cold.

    Args:
        seed: Of the model; the events are always the same.
        noise: Standard deviation of what the model adds to the truth.
        shuffled: Whether proxies are assigned to the wrong items.
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
    run.make("scorer", weights)
    cold = scores.filter(pc.equal(scores["train_events"], 0))
    slot = cold["logit_release"].to_numpy() - cold["logit_oov"].to_numpy()
    value = gauc(cold["user_idx"].to_numpy(), cold["label"].to_numpy(), slot)
    upstream = {"ranker": 1, "encoder": 1}
    return run.register("scorer", upstream, scores=scores, cold_gauc_item=value, cold_rows=len(cold)).version


@pytest.fixture(scope="module")
def scored_champion(first_release, tmp_path_factory):
    run = first_release.restore()
    promote(run.registry, register(run, "good", rows(1, noise=0.1)), Settings(gates=(GATE,)))
    return Snapshot(run, tmp_path_factory.mktemp("scored") / "kept")


@pytest.fixture
def with_champion(scored_champion):
    """A champion with scored rows."""
    return scored_champion.restore(), Settings(gates=(GATE,))


def test_shuffled_proxies_are_refused_with_metrics_in_the_note(with_champion):
    run, settings = with_champion
    version = register(run, "shuffled", rows(2, noise=0.1, shuffled=True))
    logged = promote(run.registry, version, settings)
    gate = logged.event.gates[-1]
    assert logged.event.action == "refused"
    assert gate["ci_high"] < -0.1
    assert gate["ci_low"] < gate["value"] - gate["champion_value"] < gate["ci_high"]
    assert gate["rows"] == USERS * PER_USER / 2
    assert "on the same 3000 rows" in describe_event(logged)


def test_equal_scorer_passes_within_tolerance(with_champion):
    run, settings = with_champion
    logged = promote(run.registry, register(run, "equal", rows(3, noise=0.1)), settings)
    gate = logged.event.gates[-1]
    assert logged.event.action == "promoted"
    assert gate["ci_low"] < 0 < gate["ci_high"]
    assert gate["ci_low"] > -0.01


def test_slightly_worse_scorer_is_refused_without_tolerance(with_champion):
    run, _ = with_champion
    strict = Settings(gates=(GATE.model_copy(update={"tolerance": 0.0}),))
    logged = promote(run.registry, register(run, "noisier", rows(4, noise=0.5)), strict)
    assert logged.event.action == "refused"


def test_same_scores_have_difference_zero():
    found = paired_difference(rows(1, noise=0.1), rows(1, noise=0.1), GATE)
    assert (found.value - found.champion_value, found.ci_low, found.ci_high) == (0, 0, 0)


@pytest.mark.parametrize(("metric", "better"), [("gauc", 1), ("gauc_item", 1), ("logloss", -1)])
def test_every_paired_metric_finds_the_better_model(metric, better):
    gate = Gate(name="x", metric=metric, slice="all")
    found = paired_difference(rows(1, noise=0.1), rows(2, noise=2.0), gate)
    assert better * found.ci_low > 0
    assert better * found.ci_high > 0


def test_only_common_events_are_compared():
    table = rows(1, noise=0.1)
    found = paired_difference(table.slice(0, 3000), table.slice(1500), Gate(name="x", slice="all"))
    assert found.rows == 1500


def test_rows_of_different_datasets_are_not_compared(with_champion):
    run, settings = with_champion
    run.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "item_table"):
        run.make(kind, "two")
    ranker = run.register("ranker").version
    encoder = run.register("encoder", {"ranker": ranker}).version
    run.make("scorer", "elsewhere")
    scores = rows(2, noise=0.1, shuffled=True)
    upstream = {"ranker": ranker, "encoder": encoder}
    version = run.register("scorer", upstream, scores=scores, cold_gauc_item=0.5, cold_rows=3000).version
    gate = promote(run.registry, version, settings).event.gates[-1]
    assert gate["passed"] is None


def test_champion_replayed_on_the_new_dataset_is_compared_there(with_champion):
    run, settings = with_champion
    run.lineage["dataset"] = "e" * 64
    for kind in ("ranker", "encoder", "item_table", "scorer"):
        run.make(kind, "two")
    ranker = run.register("ranker").version
    encoder = run.register("encoder", {"ranker": ranker}).version
    scores = rows(2, noise=0.1, shuffled=True)
    upstream = {"ranker": ranker, "encoder": encoder}
    version = run.register("scorer", upstream, scores=scores, cold_gauc_item=0.5, cold_rows=3000).version
    log_scored_rows(run.registry, run.registry.version("scorer", 2).run_id, "e" * 64, rows(1, noise=0.1))
    assert promote(run.registry, version, settings).event.action == "refused"


@pytest.mark.parametrize(("replayed", "action"), [(1000, "refused"), (100, "promoted")])
def test_replayed_rows_are_preferred_if_enough(with_champion, replayed, action):
    run, settings = with_champion
    version = register(run, "equal", rows(3, noise=0.1))
    later = {2: rows(1, noise=0.1), version: rows(2, noise=0.1, shuffled=True)}
    log_replay(run.registry, {number: table.slice(0, replayed) for number, table in later.items()}, "f" * 64)
    logged = promote(run.registry, version, settings)
    assert logged.event.action == action
    assert logged.event.gates[-1]["rows"] == (500 if action == "refused" else 3000)
