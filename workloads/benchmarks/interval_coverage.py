"""Coverage of the confidence intervals: how often they include a difference that is known.

The population is one generated log of users and items. The true difference in GAUC between two scorers is their
difference on the log log. A repetition draws users, items or both from it with replacement (each copy is another user
or item). So repetitions are independent samples of a population with a known truth, and each computes the interval
that a report would show. Each interval is tested against its own question:

- users: other users of the same items. The truth is the log log; all items stay.
- items: other items shown to the same users. All users stay.
- both: other users and other items.
- seeds: the mean over trainings, for other users and other seeds. The errors of the two scorers are drawn for every
  seed; the truth is the mean over all known seeds.

    python -m workloads.benchmarks.interval_coverage
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation, Generated
from coldstart.data.synthetic import generate
from coldstart.evaluation.compare.seed_aggregation import seed_user_draws
from coldstart.evaluation.inference.intervals import Interval, interval, resample
from coldstart.evaluation.inference.two_way_bootstrap import ResampleUnit, TwoWayBootstrap
from coldstart.evaluation.protocol.partial_metrics import GroupRanking, user_metrics
from coldstart.evaluation.protocol.protocol import RAW, EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.variants import to_logit
from coldstart.jobs.progress import CONSOLE
from coldstart.metrics.clicks import gauc, rank_users

SETTINGS = Evaluation(num_resamples=500)
BETTER, WORSE = "fine", "coarse"
ERRORS = {BETTER: 0.6, WORSE: 0.9}
"""Standard deviation, in log-odds, of each scorer's errors by item."""
KNOWN_SEEDS, SEEDS = 60, 5
PROTOCOL = EvaluationProtocol(("oov", WORSE, BETTER), item_effect=(), edges=(), top_k=10, bins=10)


def population(*, users: int, items: int, events: int, seed: int) -> ScoredRows:
    """A generated log with two scores: the content oracle plus errors per item and per row."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Generated(items=items, users=users, events=events, image_size=8), seed, Path(scratch))
        log = pq.read_table(Path(scratch) / "events.parquet")
    user, item = (
        np.unique(log[name].to_numpy(zero_copy_only=False), return_inverse=True)[1] for name in ("user_id", "item_id")
    )
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    logit = to_logit(log["p_click_content"].to_numpy()[order])
    return ScoredRows(
        user_idx=user,
        item_idx=item,
        event=np.arange(len(user)),
        timestamp=log["timestamp"].to_numpy()[order],
        label=log["label"].to_numpy()[order],
        train_events=np.zeros(len(user), np.int64),
        train_clicks=np.zeros(len(user), np.int64),
        age_s=np.zeros(len(user)),
        logits={"oov": np.zeros(len(user)), **_scores(logit, item, np.random.default_rng([seed, 0]))},
    )


def repetitions(log: ScoredRows, over: ResampleUnit, *, size: int, count: int, seed: int) -> Iterator[ScoredRows]:
    """Samples of `size` users, items or both, drawn with replacement."""
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        rows = np.arange(len(log))
        user, item = log.user_idx, log.item_idx
        if over is not ResampleUnit.ITEMS:
            rows, user = _drawn(rows, user, size, rng)
            item = log.item_idx[rows]
        if over is not ResampleUnit.USERS:
            kept, copies = _drawn(np.arange(len(rows)), item, size, rng)
            rows, user, item = rows[kept], user[kept], copies
        yield replace(log.take(rows), user_idx=user, item_idx=item)


def _drawn(
    rows: NDArray[np.int64], unit: NDArray[np.integer], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `size` units drawn with replacement, and the number of the draw of each row."""
    order = np.argsort(unit, kind="stable")
    starts = np.searchsorted(unit[order], np.arange(int(unit.max()) + 2))
    drawn = rng.integers(0, len(starts) - 1, size)
    parts = [rows[order[starts[one] : starts[one + 1]]] for one in drawn]
    return np.concatenate(parts), np.repeat(np.arange(size), [len(part) for part in parts])


def report_interval(rows: ScoredRows, over: ResampleUnit, seed: int) -> Interval:
    """The interval of the difference, as in a report."""
    users = user_metrics(rows, PROTOCOL)
    ranks = GroupRanking.merge(users.filter(np.asarray(users["group"]) == PROTOCOL.groups.index("all")))
    better, worse = (PROTOCOL.scores.index((RAW, name)) for name in (BETTER, WORSE))
    return TwoWayBootstrap(ranks, SETTINGS, seed).difference(better, worse, over)


def count_covered(
    log: ScoredRows,
    over: ResampleUnit,
    *,
    size: int,
    count: int,
    seed: int,
    method: Callable[[ScoredRows, ResampleUnit, int], Interval] = report_interval,
) -> int:
    """Number of the `count` repetitions whose interval includes the difference on the whole log."""
    truth = gauc(log.user_idx, log.label, log.logits[BETTER]) - gauc(log.user_idx, log.label, log.logits[WORSE])
    samples = repetitions(log, over, size=size, count=count, seed=seed)
    found = [method(rows, over, number) for number, rows in enumerate(samples)]
    return sum(one.low <= truth <= one.high for one in found)


def count_covered_over_seeds(log: ScoredRows, *, size: int, count: int, seed: int) -> int:
    """Number of repetitions whose interval over users and `SEEDS` seeds includes the mean over all known seeds."""
    logit = log.logits[BETTER]
    gains = []
    for number in range(KNOWN_SEEDS):
        scores = _scores(logit, log.item_idx, np.random.default_rng([seed, 2, number]))
        ranked = {name: rank_users(log.user_idx, log.label, values) for name, values in scores.items()}
        gains.append(ranked[BETTER].auc - ranked[WORSE].auc)
    gain, weight = np.stack(gains), ranked[BETTER].weight
    truth = float((gain @ weight).mean() / weight.sum())
    total = 0
    for number in range(count):
        rng = np.random.default_rng([seed, 3, number])
        seeds, users = rng.integers(0, KNOWN_SEEDS, SEEDS), rng.integers(0, len(weight), size)
        sample = gain[seeds][:, users]
        draws = resample(sample, weight[users], resamples=SETTINGS.num_resamples, seed=number).T
        value = float((sample @ weight[users]).mean() / weight[users].sum())
        crossed = seed_user_draws(draws, confidence=SETTINGS.confidence, seed=number)
        found = interval(value, crossed, confidence=SETTINGS.confidence)
        total += found.low <= truth <= found.high
    return total


def _scores(
    logit: NDArray[np.floating], item: NDArray[np.integer], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    of_item = {name: rng.normal(0, error, int(item.max()) + 1) for name, error in ERRORS.items()}
    return {name: logit + error[item] + rng.normal(0, 0.3, len(logit)) for name, error in of_item.items()}


def main() -> None:
    """Prints how many intervals include the truth."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.interval_coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--size", type=int, default=200, help="users or items of a repetition")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    count, size, seed = arguments.repetitions, arguments.size, arguments.seed
    log = population(users=2000, items=2000, events=400_000, seed=seed)
    found = {over.value: count_covered(log, over, size=size, count=count, seed=seed) for over in ResampleUnit}
    found["seeds"] = count_covered_over_seeds(log, size=size, count=count, seed=seed)
    if arguments.json:
        print(json.dumps({"repetitions": count, "confidence": SETTINGS.confidence, "covered": found}))
        return
    for name, included in found.items():
        CONSOLE.print(
            f"{name:<8} {included} of {count} intervals at {SETTINGS.confidence:.0%} include the true difference"
        )


if __name__ == "__main__":
    main()
