"""Do the intervals hold what they promise? How often they cover a difference that is known.

The population is one generated log, users by items. Its true difference in GAUC between two scorers is what both give
on the whole log. A repetition draws users, items or both from it with replacement (a copy counts as another user or
item), so repetitions are independent samples of a population whose truth is exact, and asks the interval that a report
would show. Each interval is judged against the question it answers:

- users: other users of the same items. The truth is the whole log; every item stays.
- items: other items shown to the same users. Every user stays.
- both: other users and other items.
- seeds: the mean over trainings, for other users and other seeds. The two scorers' errors are drawn anew per seed; the
  truth is the mean over all that are known.

    python -m workloads.benchmarks.coverage
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
from coldstart.data.generator import generate
from coldstart.evaluation.intervals import Interval, interval, resample
from coldstart.evaluation.measured import Ranks, measure_users
from coldstart.evaluation.metrics import gauc, rank_users
from coldstart.evaluation.protocol import SERVED, Protocol
from coldstart.evaluation.resampling import Over, Resampled
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.seeds import crossed_draws
from coldstart.evaluation.variants import to_logit
from workloads.console import CONSOLE

SETTINGS = Evaluation(bootstrap=500)
BETTER, WORSE = "fine", "coarse"
ERRORS = {BETTER: 0.6, WORSE: 0.9}
"""Standard deviation, in log-odds, of what each scorer gets wrong about an item."""
KNOWN_SEEDS, SEEDS = 60, 5
PROTOCOL = Protocol(("oov", WORSE, BETTER), appeal=(), edges=(), top=10, bins=10)


def population(*, users: int, items: int, events: int, seed: int) -> ScoredRows:
    """A generated log, scored twice: what content can tell, with an error per item and one per row."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Generated(items=items, users=users, events=events, picture_size=8), seed, Path(scratch))
        log = pq.read_table(Path(scratch) / "events.parquet")
    user, item = (
        np.unique(log[name].to_numpy(zero_copy_only=False), return_inverse=True)[1] for name in ("user_id", "item_id")
    )
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    told = to_logit(log["p_click_content"].to_numpy()[order])
    return ScoredRows(
        user_idx=user,
        item_idx=item,
        event=np.arange(len(user)),
        timestamp=log["timestamp"].to_numpy()[order],
        label=log["label"].to_numpy()[order],
        train_events=np.zeros(len(user), np.int64),
        train_clicks=np.zeros(len(user), np.int64),
        age_s=np.zeros(len(user)),
        logits={"oov": np.zeros(len(user)), **_scores(told, item, np.random.default_rng([seed, 0]))},
    )


def repetitions(whole: ScoredRows, over: Over, *, size: int, many: int, seed: int) -> Iterator[ScoredRows]:
    """Samples with `size` users, items or both, drawn with replacement."""
    for number in range(many):
        rng = np.random.default_rng([seed, 1, number])
        rows = np.arange(len(whole))
        user, item = whole.user_idx, whole.item_idx
        if over is not Over.ITEMS:
            rows, user = _drawn(rows, user, size, rng)
            item = whole.item_idx[rows]
        if over is not Over.USERS:
            kept, copies = _drawn(np.arange(len(rows)), item, size, rng)
            rows, user, item = rows[kept], user[kept], copies
        yield replace(whole.take(rows), user_idx=user, item_idx=item)


def _drawn(
    rows: NDArray[np.int64], unit: NDArray[np.integer], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `size` units drawn with replacement, and which draw each belongs to."""
    order = np.argsort(unit, kind="stable")
    starts = np.searchsorted(unit[order], np.arange(int(unit.max()) + 2))
    drawn = rng.integers(0, len(starts) - 1, size)
    parts = [rows[order[starts[one] : starts[one + 1]]] for one in drawn]
    return np.concatenate(parts), np.repeat(np.arange(size), [len(part) for part in parts])


def of_report(rows: ScoredRows, over: Over, seed: int) -> Interval:
    """The interval of the difference as a report shows it."""
    users = measure_users(rows, PROTOCOL)
    ranks = Ranks.merge(users.filter(np.asarray(users["group"]) == PROTOCOL.groups.index("all")))
    better, worse = (PROTOCOL.scores.index((SERVED, name)) for name in (BETTER, WORSE))
    return Resampled(ranks, SETTINGS, seed).difference(better, worse, over)


def covered(
    whole: ScoredRows,
    over: Over,
    *,
    size: int,
    many: int,
    seed: int,
    method: Callable[[ScoredRows, Over, int], Interval] = of_report,
) -> int:
    """In how many of `many` repetitions the interval holds the difference on the whole log."""
    truth = gauc(whole.user_idx, whole.label, whole.logits[BETTER]) - gauc(
        whole.user_idx, whole.label, whole.logits[WORSE]
    )
    samples = repetitions(whole, over, size=size, many=many, seed=seed)
    found = [method(rows, over, number) for number, rows in enumerate(samples)]
    return sum(one.low <= truth <= one.high for one in found)


def covered_over_seeds(whole: ScoredRows, *, size: int, many: int, seed: int) -> int:
    """In how many repetitions the interval over users and `SEEDS` seeds holds the mean over all known seeds."""
    told = whole.logits[BETTER]
    gains = []
    for number in range(KNOWN_SEEDS):
        scores = _scores(told, whole.item_idx, np.random.default_rng([seed, 2, number]))
        ranked = {name: rank_users(whole.user_idx, whole.label, values) for name, values in scores.items()}
        gains.append(ranked[BETTER].auc - ranked[WORSE].auc)
    gain, weight = np.stack(gains), ranked[BETTER].weight
    truth = float((gain @ weight).mean() / weight.sum())
    total = 0
    for number in range(many):
        rng = np.random.default_rng([seed, 3, number])
        seeds, users = rng.integers(0, KNOWN_SEEDS, SEEDS), rng.integers(0, len(weight), size)
        sample = gain[seeds][:, users]
        draws = resample(sample, weight[users], resamples=SETTINGS.bootstrap, seed=number).T
        value = float((sample @ weight[users]).mean() / weight[users].sum())
        crossed = crossed_draws(draws, confidence=SETTINGS.confidence, seed=number)
        found = interval(value, crossed, confidence=SETTINGS.confidence)
        total += found.low <= truth <= found.high
    return total


def _scores(
    told: NDArray[np.floating], item: NDArray[np.integer], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    of_item = {name: rng.normal(0, error, int(item.max()) + 1) for name, error in ERRORS.items()}
    return {name: told + error[item] + rng.normal(0, 0.3, len(told)) for name, error in of_item.items()}


def main() -> None:
    """Prints how many of 100 intervals at 95 % cover the truth."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--size", type=int, default=200, help="users or items of a repetition")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    many, size, seed = arguments.repetitions, arguments.size, arguments.seed
    whole = population(users=2000, items=2000, events=400_000, seed=seed)
    found = {over.value: covered(whole, over, size=size, many=many, seed=seed) for over in Over}
    found["seeds"] = covered_over_seeds(whole, size=size, many=many, seed=seed)
    if arguments.json:
        print(json.dumps({"repetitions": many, "confidence": SETTINGS.confidence, "covered": found}))
        return
    for name, count in found.items():
        CONSOLE.print(f"{name:<8} {count} of {many} intervals at {SETTINGS.confidence:.0%} hold the true difference")


if __name__ == "__main__":
    main()
