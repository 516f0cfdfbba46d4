"""Measures the scorers of SaviorRec and MIM against the ranker that they extend, on one dataset, in one process.

- train: rows per second of the click training, without validation.
- score: rows per second over all validation and test events, in the windows of the evaluation.
- request: median milliseconds of one request with a history of 50 items and 200 candidates.

Content vectors and codes are random; speed does not depend on them. Rounds alternate between scorers, and the ratios
are of medians.

    python -m workloads.benchmarks.scorers --recipe demo
"""

import platform
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from coldstart.config import Recipe, load_recipe
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.batches import RankBatch, UserWindows, rank_request
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST, VALID
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import readable_errors, recipe_arguments
from coldstart.methods.mim import interest_training
from coldstart.methods.mim.config import Settings as MimSettings
from coldstart.methods.saviorrec import scorer_training
from coldstart.methods.saviorrec.config import Settings as SaviorSettings
from coldstart.rankers import Ranker
from coldstart.rankers.scorer import IdScorer, Scorer
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from coldstart.training.ranker_training import train_ranker
from workloads.benchmarks.results_page import RESULTS, add_section, commit

WIDTH, SIZES = 128, (64, 64, 64)
"""Width of content vectors, and codes of each level."""
HISTORY, CANDIDATES = 50, 200
EPOCHS, ROUNDS, REQUESTS, REQUESTS_PER_TURN = 1, 3, 400, 20
RANKER, SAVIORREC, FROZEN, MIM = "ranker", "SaviorRec joint", "SaviorRec frozen", "MIM"
Train = Callable[[], tuple[Scorer, float]]
"""Trains a new scorer, and returns it with its rows per second."""


@dataclass
class Figures:
    """Rates of one scorer.

    Attributes:
        train: Rows per second of each round.
        score: Rows per second of each round.
        request: Milliseconds of each request.
    """

    train: list[float]
    score: list[float]
    request: list[float]

    def medians(self) -> tuple[float, float, float]:
        """Of each kind."""
        train, score, request = map(statistics.median, (self.train, self.score, self.request))
        return train, score, request


def trainings(recipe: Recipe, dataset: Dataset, items: ItemTable) -> dict[str, Train]:
    """How each scorer is trained: the ranker from the start, the others from a trained ranker."""
    settings = recipe.ranker.model_copy(update={"epochs": EPOCHS, "max_history": HISTORY})
    context = TrainingContext(seed=recipe.seed, gauc=lambda *_: 0.5)
    sequences = dataset.sequences

    def ranker() -> tuple[Ranker, float]:
        made, state = train_ranker(sequences, dataset.num_items, settings, context)
        return made, state.rows_per_second

    trained, _ = ranker()

    def saviorrec(mode: str) -> tuple[Scorer, float]:
        options = SaviorSettings.model_validate({"mode": mode, "rank": {"epochs": EPOCHS}})
        made, state = scorer_training.train_scorer(deepcopy(trained), sequences, items, options, context, sizes=SIZES)
        return made, state.rows_per_second

    def mim() -> tuple[Scorer, float]:
        interest = MimSettings.model_validate({"interest": {"epochs": EPOCHS}}).interest
        made, state = interest_training.train_scorer(deepcopy(trained), sequences, items, interest, context)
        return made, state.rows_per_second

    def plain() -> tuple[Scorer, float]:
        made, rate = ranker()
        return IdScorer(made), rate

    return {RANKER: plain, SAVIORREC: lambda: saviorrec("joint"), FROZEN: lambda: saviorrec("frozen"), MIM: mim}


def random_items(count: int, seed: int) -> ItemTable:
    """Content vectors of unit length and codes of `count` items, and of the unknown one."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(count + 1, WIDTH)).astype(np.float32)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    codes = np.stack([rng.integers(0, size, count + 1) for size in SIZES], axis=1).astype(np.int16)
    return ItemTable({"content": torch.from_numpy(content), "codes": torch.from_numpy(codes)})


def request(count: int, seed: int) -> RankBatch:
    """A user with full history and candidates among `count` items."""
    rng = np.random.default_rng(seed)
    at = 1_700_000_000 + 60 * np.arange(HISTORY)
    history, candidates = rng.integers(1, count + 1, HISTORY), rng.integers(1, count + 1, CANDIDATES)
    return rank_request(history, rng.integers(0, 2, HISTORY), at, candidates, int(at[-1]) + 60, history=HISTORY)


def measure(recipe: Recipe, dataset: Dataset) -> dict[str, Figures]:
    """Trains and scores in rounds, all scorers in turn."""
    items = random_items(dataset.num_items, recipe.seed)
    asked = request(dataset.num_items, recipe.seed)
    windows = UserWindows(dataset.sequences, history=HISTORY, splits=[VALID, TEST])
    found = {name: Figures([], [], []) for name in (RANKER, SAVIORREC, FROZEN, MIM)}
    scorers: dict[str, Scorer] = {}
    train_new = trainings(recipe, dataset, items)
    for _ in range(ROUNDS):
        for name, train in train_new.items():
            scorers[name], rate = train()
            found[name].train.append(rate)
        for name, scorer in scorers.items():
            began = time.perf_counter()
            scored = score_targets(lambda batch, scorer=scorer: scorer(batch, items), windows)
            found[name].score.append(len(scored) / (time.perf_counter() - began))
    for _ in range(REQUESTS // REQUESTS_PER_TURN):
        for name, scorer in scorers.items():
            found[name].request += [_milliseconds(scorer, asked, items) for _ in range(REQUESTS_PER_TURN)]
    return found


@torch.inference_mode()
def _milliseconds(scorer: Scorer, batch: RankBatch, items: ItemTable) -> float:
    began = time.perf_counter()
    scorer(batch, items)
    return 1000 * (time.perf_counter() - began)


def section(recipe: Recipe, found: dict[str, Figures]) -> str:
    """The Markdown section for results/ranker.md."""
    train, score, asked = found[RANKER].medians()
    lines = [
        f"## Scorers of SaviorRec and MIM against their {recipe.ranker.kind}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {platform.machine()}, one process with one thread. `python "
        f"-m workloads.benchmarks.scorers --recipe {recipe.name} --set ranker.kind={recipe.ranker.kind}`. History "
        f"{HISTORY}, {CANDIDATES} candidates per request, ID width {recipe.ranker.embedding_dim}, content width "
        f"{WIDTH}, {len(SIZES)} levels of codes; medians of {ROUNDS} rounds and {REQUESTS} requests.",
        "",
        "| scorer | train rows/s | x ranker | score rows/s | x ranker | request, p50 ms | x ranker |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in found.items():
        own = figures.medians()
        lines.append(
            f"| {name} | {own[0]:,.0f} | {own[0] / train:.2f} | {own[1]:,.0f} | {own[1] / score:.2f} | {own[2]:.2f} | "
            f"{own[2] / asked:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and adds the table to results/ranker.md."""
    parser = recipe_arguments("benchmarks.scorers", __doc__)
    parser.add_argument("--dry-run", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        torch.set_num_threads(1)
        text = section(recipe, measure(recipe, Dataset.open(recipe.run_dir / "dataset")))
    CONSOLE.print(text, markup=False, soft_wrap=True)
    if not arguments.dry_run:
        add_section(RESULTS / "ranker.md", text)


if __name__ == "__main__":
    main()
