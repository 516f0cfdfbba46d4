"""Our rankers against those of torch-rechub and FuxiCTR: same rows, history, width, batch and grid, in one run.

make bench-ranker DATA=path/to/movielens-posters
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from coldstart.config import Recipe, load_recipe
from coldstart.config.recipe import Paths
from coldstart.data.batches import UserWindows
from coldstart.data.contract import TRAIN
from coldstart.data.dataset import Dataset
from coldstart.training.ranker_loop import TARGETS
from workloads import prepare
from workloads.benchmarks.ranker.contenders import CONTENDERS, Arena, Contender, Outcome
from workloads.benchmarks.ranker.rows import write_rows
from workloads.benchmarks.ranker.table import Standing, section
from workloads.console import CONSOLE
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments, run_stage

WIDTH, HISTORY, BATCH = 32, 50, 1024
SHARED = {
    "width": WIDTH,
    "history": HISTORY,
    "batch": BATCH,
    "hidden": [128, 64],
    "attention": [36],
    "cross_layers": 2,
    "dropout": 0.1,
    "epochs": 4,
    "patience": 1,
}
GRID = [{"learning_rate": rate, "l2": l2} for rate, l2 in product((1e-3, 3e-3), (1e-5, 1e-4))]
SEEDS = (17, 18, 19)
ROUNDS = 2
OUR_EPOCHS, PEER_EPOCHS = 4, 2
"""Of a timed run; the first is left out."""
RESULTS = Path(__file__).parents[1] / "RESULTS.md"


def arena(recipe: Recipe) -> Arena:
    """Prepares the dataset and the rows."""
    with ray_cluster(recipe):
        run_stage("prepare", prepare.run, recipe)
    dataset = Dataset.open(recipe.run_dir / "dataset")
    rows = write_rows(dataset.sequences, dataset.num_items, recipe.run_dir / "rows", length=HISTORY)
    train = UserWindows(dataset.sequences, history=HISTORY, splits=[TRAIN], targets=TARGETS)
    return Arena(recipe, rows, SHARED, windows_per_step(train, recipe.cluster.workers))


def windows_per_step(train: UserWindows, workers: int) -> int:
    """So many user windows that a step has about `BATCH` targets; a multiple of the workers."""
    return max(round(BATCH * len(train) / train.num_targets / workers), 1) * workers


def tune(arena: Arena, contenders: Sequence[Contender]) -> dict[Contender, dict[str, Any]]:
    """The settings of the grid with the best validation GAUC, for each contender."""
    tries = [(contender, choice, SEEDS[0]) for contender in contenders for choice in GRID]
    outcomes = _settle(arena, "tuned", tries)
    best: dict[Contender, tuple[float, dict[str, Any]]] = {}
    for (contender, choice, _), outcome in zip(tries, outcomes, strict=True):
        reached = max(outcome.valid_gauc)
        if contender not in best or reached > best[contender][0]:
            best[contender] = reached, choice
    return {contender: choice for contender, (_, choice) in best.items()}


def compare(arena: Arena, contenders: Sequence[Contender]) -> list[Standing]:
    """Tunes everybody, trains everybody with each seed, and times everybody by turns."""
    choices = tune(arena, contenders)
    runs = [(contender, choices[contender], seed) for contender in contenders for seed in SEEDS]
    settled = _settle(arena, "trained", runs)
    timed: dict[Contender, list[Outcome]] = {contender: [] for contender in contenders}
    for turn, contender in product(range(ROUNDS), contenders):
        epochs = PEER_EPOCHS if contender.library else OUR_EPOCHS
        timed[contender].append(arena.time(contender, choices[contender], SEEDS[0], epochs=epochs))
        CONSOLE.print(f"[green]done[/]  timed   {contender.name}, {turn + 1} of {ROUNDS}")
    return [
        Standing.of(
            contender,
            choices[contender],
            arena.rows,
            [outcome for run, outcome in zip(runs, settled, strict=True) if run[0] == contender],
            timed[contender],
        )
        for contender in contenders
    ]


def _settle(arena: Arena, done: str, runs: Sequence[tuple[Contender, dict[str, Any], int]]) -> list[Outcome]:
    """Outcomes in the order of `runs`; two are trained at a time, each by one thread."""

    def act(contender: Contender, choice: dict[str, Any], seed: int) -> Outcome:
        outcome = arena.settle(contender, choice, seed)
        shown = " ".join(f"{name}={value:g}" for name, value in choice.items())
        reached = f"valid GAUC {max(outcome.valid_gauc):.4f} in {len(outcome.valid_gauc)} epochs"
        CONSOLE.print(f"[green]done[/]  {done:<7} {contender.name} [dim]{shown} seed={seed}  {reached}[/]")
        return outcome

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(act, *zip(*runs, strict=True)))


def main() -> None:
    """Compares, and prints the section for RESULTS.md or adds it there."""
    parser = recipe_arguments("benchmarks.ranker", __doc__)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="compare these")
    parser.add_argument("--record", action="store_true", help=f"add the result to {RESULTS.name}")
    arguments = parser.parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        recipe = recipe.model_copy(update={"paths": Paths(runs=recipe.paths.runs / "bench-ranker")})
        entrants = arena(recipe)
        chosen = [contender for contender in CONTENDERS if contender.name in arguments.only]
        text = section(compare(entrants, chosen), _about(entrants))
    CONSOLE.print(text, soft_wrap=True, markup=False)
    if arguments.record:
        RESULTS.write_text(f"{RESULTS.read_text()}\n{text}")


def _about(arena: Arena) -> str:
    rows, cluster = arena.rows, arena.recipe.cluster
    return (
        f"`make bench-ranker`, recipe {arena.recipe.name}: {rows.train:,} train and {rows.test:,} test rows, "
        f"history {HISTORY}, width {WIDTH}, {BATCH} rows a step ({arena.windows} user windows of ours); "
        f"tuned by valid GAUC over {len(GRID)} choices, then {len(SEEDS)} seeds, mean and standard deviation. "
        f"Rates are medians of {ROUNDS} turns, the first epoch of each left out: ours trains by `train_ranker` "
        f"(workers: {cluster.workers}, threads of each: {cluster.threads_per_worker}), a peer by its own trainer with "
        "as many threads. Peers see items and labels of the history, how many there are, their click rate and the time "
        "since the last; ours sees the age of each as well. Memory is the proportional set size of the largest process "
        "(of all of them, Ray's own included)."
    )


if __name__ == "__main__":
    main()
