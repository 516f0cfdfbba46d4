"""Compares coldstart's rankers with torch-rechub and FuxiCTR: same rows, history, width, batch and grid, in one run.

make bench-ranker DATA=path/to/movielens-posters
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

from coldstart.config import Recipe, load_recipe
from coldstart.config.recipe import Paths
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.batches import UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TRAIN
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments, run_stage
from coldstart.jobs.stages import prepare
from coldstart.training.ranker_training import TARGETS_PER_WINDOW
from workloads.benchmarks.ranker.competitors import COMPETITORS, Competitor, ExperimentRunner, RunResult
from workloads.benchmarks.ranker.impressions import write_impressions
from workloads.benchmarks.ranker.report import ResultRow, section
from workloads.benchmarks.results_page import RESULTS, add_section

WIDTH, HISTORY, BATCH = 32, 50, 1024
SHARED = {
    "embedding_dim": WIDTH,
    "max_history": HISTORY,
    "batch": BATCH,
    "mlp_units": [128, 64],
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
"""Epochs of a timed run; the first one is not counted."""
PAGE = RESULTS / "ranker.md"


def make_runner(recipe: Recipe) -> ExperimentRunner:
    """Prepares the dataset and the impression files."""
    with ray_cluster(recipe):
        run_stage("prepare", prepare.run, recipe)
    dataset = Dataset.open(recipe.run_dir / "dataset")
    rows = write_impressions(dataset.sequences, dataset.num_items, recipe.run_dir / "rows", length=HISTORY)
    train = UserWindows(dataset.sequences, history=HISTORY, splits=[TRAIN], targets=TARGETS_PER_WINDOW)
    return ExperimentRunner(recipe, rows, SHARED, windows_per_step(train, recipe.cluster.workers))


def windows_per_step(train: UserWindows, workers: int) -> int:
    """Number of user windows for about `BATCH` targets per step; a multiple of the workers."""
    return max(round(BATCH * len(train) / train.num_targets / workers), 1) * workers


def tune(runner: ExperimentRunner, competitors: Sequence[Competitor]) -> dict[Competitor, dict[str, Any]]:
    """Settings of the grid with the best validation GAUC, per competitor."""
    runs = [(competitor, choice, SEEDS[0]) for competitor in competitors for choice in GRID]
    results = _run_all(runner, "tuned", runs)
    best: dict[Competitor, tuple[float, dict[str, Any]]] = {}
    for (competitor, choice, _), result in zip(runs, results, strict=True):
        gauc = max(result.valid_gauc)
        if competitor not in best or gauc > best[competitor][0]:
            best[competitor] = gauc, choice
    return {competitor: choice for competitor, (_, choice) in best.items()}


def compare(runner: ExperimentRunner, competitors: Sequence[Competitor]) -> list[ResultRow]:
    """Tunes all competitors, trains them with each seed, and times them in turns."""
    choices = tune(runner, competitors)
    runs = [(competitor, choices[competitor], seed) for competitor in competitors for seed in SEEDS]
    trained = _run_all(runner, "trained", runs)
    timed: dict[Competitor, list[RunResult]] = {competitor: [] for competitor in competitors}
    for turn, competitor in product(range(ROUNDS), competitors):
        epochs = PEER_EPOCHS if competitor.library else OUR_EPOCHS
        timed[competitor].append(runner.run_timed(competitor, choices[competitor], SEEDS[0], epochs=epochs))
        CONSOLE.print(f"[green]done[/]  timed   {competitor.name}, {turn + 1} of {ROUNDS}")
    return [
        ResultRow.of(
            competitor,
            choices[competitor],
            runner.rows,
            [result for run, result in zip(runs, trained, strict=True) if run[0] == competitor],
            timed[competitor],
        )
        for competitor in competitors
    ]


def _run_all(
    runner: ExperimentRunner, done: str, runs: Sequence[tuple[Competitor, dict[str, Any], int]]
) -> list[RunResult]:
    """Results in the order of `runs`; trains two at a time, each with one thread."""

    def train(competitor: Competitor, choice: dict[str, Any], seed: int) -> RunResult:
        result = runner.run_cached(competitor, choice, seed)
        settings = " ".join(f"{name}={value:g}" for name, value in choice.items())
        score = f"valid GAUC {max(result.valid_gauc):.4f} in {len(result.valid_gauc)} epochs"
        CONSOLE.print(f"[green]done[/]  {done:<7} {competitor.name} [dim]{settings} seed={seed}  {score}[/]")
        return result

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(train, *zip(*runs, strict=True)))


def main() -> None:
    """Runs the comparison and prints the result section; `--record` appends it to the results."""
    parser = recipe_arguments("benchmarks.ranker", __doc__)
    names = [competitor.name for competitor in COMPETITORS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="competitors to compare")
    parser.add_argument("--record", action="store_true", help=f"add the result to {PAGE.name}")
    arguments = parser.parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        recipe = recipe.model_copy(update={"paths": Paths(runs=recipe.paths.runs / "bench-ranker")})
        runner = make_runner(recipe)
        chosen = [competitor for competitor in COMPETITORS if competitor.name in arguments.only]
        text = section(compare(runner, chosen), _about(runner))
    CONSOLE.print(text, soft_wrap=True, markup=False)
    if arguments.record:
        add_section(PAGE, text)


def _about(runner: ExperimentRunner) -> str:
    rows, cluster = runner.rows, runner.recipe.cluster
    return (
        f"`make bench-ranker`, recipe {runner.recipe.name}: {rows.train:,} train and {rows.test:,} test rows, "
        f"history {HISTORY}, width {WIDTH}, {BATCH} rows a step ({runner.windows} user windows of coldstart); "
        f"tuned by valid GAUC over {len(GRID)} settings, then {len(SEEDS)} seeds, mean and standard deviation. "
        f"Rates are medians of {ROUNDS} turns without the first epoch of each: coldstart trains with `train_ranker` "
        f"(workers: {cluster.workers}, threads per worker: {cluster.threads_per_worker}), a peer with its own trainer "
        "and as many threads. Peers read items and labels of the history, their number and click rate, and the time "
        "since the last event; coldstart also reads the time of each event. Memory is the proportional set size of the "
        "largest process (in brackets: of all processes, including Ray's)."
    )


if __name__ == "__main__":
    main()
