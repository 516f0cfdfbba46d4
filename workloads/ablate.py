"""The ablation: every way of scoring cold items, tuned alike, over seeds, in one table that says what is real.

Grids are searched with the first seed; the others train with what it chose. Everything that is done is kept, so the
same command goes on after a kill and does nothing where nothing has changed.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from coldstart.config import Artifact, Journal, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.batches import UserWindows
from coldstart.data.contract import TEST
from coldstart.data.dataset import Dataset
from coldstart.evaluation.ablation import CONTEXT, ablation
from coldstart.evaluation.ablation_page import ablation_chart, ablation_markdown
from coldstart.evaluation.scored_rows import EventFacts, ScoredRows
from coldstart.evaluation.scoring import score_rows
from coldstart.evaluation.variants import BASELINE, MEANINGS, TRUTHS, to_logit
from coldstart.rankers import load_ranker
from coldstart.training.rivals import KINDS, Setting
from workloads.console import CONSOLE
from workloads.evaluate import has_oracle
from workloads.job import recipe_arguments, run_program, run_stage
from workloads.pipeline import bring_up_to_date, check
from workloads.seeds import share_dataset, with_seed
from workloads.trials import make_trial, read_trial

SHARED = ("dataset", "ranker", "encoder", "proxies", "oracle")
"""Kinds of artifacts that all variants of a seed are made from."""
TRAINED = "trained_oracle"
Work = tuple[Recipe, str, Setting]


def run(recipe: Recipe, *, count: int, names: Sequence[str] = tuple(KINDS), own_splits: bool = False) -> Artifact:
    """Makes what is missing and writes `<run_dir>/ablation`.

    Args:
        recipe: Of the run; its seed is the first.
        count: Seeds.
        names: Variants; `oov` is always one.
        own_splits: Every seed splits its data anew (and generates it anew), so that the luck of one split is in the
            intervals too; otherwise all share the dataset of the first.

    Raises:
        UserError: no such variant, no seed, or the recipe brings an ID table only.
    """
    names = _checked(names, count)
    seeds = _seeds(recipe, count, own_splits=own_splits)
    journal = Journal(recipe.run_dir / "journals" / "ablate.jsonl")
    journal.clear()
    first, *others = seeds
    searched = [(first, name, setting) for name in names for setting in KINDS[name].grid]
    total = len(searched) + len(others) * len(names)
    tried = _make(searched, journal, 0, total)
    chosen = {name: max((t for t in tried if t.about["variant"] == name), key=_valid) for name in names}
    repeated = [(other, name, chosen[name].about["setting"]) for other in others for name in names]
    made = _make(repeated, journal, len(tried), total)
    by_seed = {first.seed: chosen}
    for place, other in enumerate(others):
        by_seed[other.seed] = dict(zip(names, made[place * len(names) :], strict=False))
    rows = {one.seed: _rows(one, by_seed[one.seed]) for one in seeds}
    about = ablation(rows, recipe.evaluation, seed=recipe.seed, own_splits=own_splits)
    about |= {"tuned": _tuned(tried, chosen, by_seed), "meanings": _meanings(about["variants"])}
    return _write(recipe, about, by_seed)


def _checked(names: Sequence[str], count: int) -> list[str]:
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: no such variant; allowed: {', '.join(KINDS)}")
    if count < 1:
        raise UserError(f"--seeds {count}: ask for 1 or more")
    return [name for name in KINDS if name in names or name == BASELINE]


def _seeds(recipe: Recipe, count: int, *, own_splits: bool) -> list[Recipe]:
    """The recipe of every seed, after its stages are up to date."""
    if recipe.bring.id_table is not None:
        raise UserError("an ID table alone scores nothing; the ablation needs a whole ranker (bring.weights, or none)")
    _, artifacts = bring_up_to_date(recipe, kinds=SHARED)
    found = [recipe]
    for seed in range(recipe.seed + 1, recipe.seed + count):
        CONSOLE.print(f"[bold]seed {seed}[/]")
        if own_splits:
            other = with_seed(recipe, seed, among="splits")
            bring_up_to_date(other, kinds=SHARED)
        else:
            other = with_seed(recipe, seed)
            share_dataset(artifacts["dataset"].path, other.run_dir / "dataset")
            bring_up_to_date(other, artifacts["dataset"], kinds=SHARED)
        found.append(other)
    return found


def _make(work: Sequence[Work], journal: Journal, before: int, total: int) -> list[Artifact]:
    """Trials, `cluster.workers` at a time, in the order of `work`."""
    if not work:
        return []
    cluster = work[0][0].cluster
    # Without a GPU: adaptors and rankers are small, and what a trial makes of them stays on the CPU.
    task = ray.remote(num_cpus=cluster.cpus_per_worker, max_retries=3)(make_trial)
    waiting, found = dict[Any, int](), dict[int, Artifact]()
    todo = iter(enumerate(work))
    journal.write(before, total)
    while len(found) < len(work):
        while len(waiting) < cluster.workers and (following := next(todo, None)):
            place, arguments = following
            waiting[task.remote(*arguments)] = place
        (done,), _ = ray.wait(list(waiting))
        trial = ray.get(done)
        found[waiting.pop(done)] = trial
        name, valid = trial.about["variant"], trial.about["valid_gauc"]
        journal.write(before + len(found), total, **{f"{name}_valid_gauc": valid})
    return [found[place] for place in range(len(work))]


def _valid(trial: Artifact) -> float:
    return float(np.nan_to_num(trial.about["valid_gauc"], nan=-1.0))


def _rows(recipe: Recipe, trials: Mapping[str, Artifact]) -> ScoredRows:
    """Test rows of one seed with the scores of all variants and of whatever oracle there is."""
    dataset = Dataset.open(recipe.run_dir / "dataset", verify=False)
    sequences, facts = dataset.sequences, EventFacts(dataset)
    logits, appeal = {}, {}
    for name, trial in trials.items():
        event, scores, by_item = read_trial(trial, dataset.num_items + 1)
        logits |= scores
        appeal[name] = by_item[sequences.item_idx[event]]
    if has_oracle(recipe):
        logits |= _oracle(recipe, dataset)
    for name, truth in zip(TRUTHS, (sequences.p_click_content, sequences.p_click), strict=True):
        if truth is not None:
            logits[name] = to_logit(truth[event])
    return facts.rows(event, logits, appeal)


def _oracle(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    oracle = load_ranker(recipe.run_dir / "oracle")
    windows = UserWindows(dataset.sequences, history=oracle.history, splits=[TEST])
    ids = oracle.id_slots(torch.arange(oracle.vocabulary)).detach()
    tables = {TRAINED: ids, TRAINED + CONTEXT: ids[:1].expand_as(ids)}
    event, logits = score_rows(oracle, windows.sweep(windows_per_step=64), tables)
    order = np.argsort(event)
    return {name: values[order] for name, values in logits.items()}


def _tuned(
    tried: Sequence[Artifact], chosen: Mapping[str, Artifact], by_seed: Mapping[int, Mapping[str, Artifact]]
) -> dict[str, Any]:
    """By variant: what was chosen, on what grounds, and what it cost."""
    keys = ("setting", "parameters", "valid_gauc")
    return {
        name: {key: best.about[key] for key in keys}
        | {
            "tried": [{key: t.about[key] for key in (*keys, "epochs")} for t in tried if t.about["variant"] == name],
            "seconds": [trials[name].about["seconds"] for trials in by_seed.values()],
        }
        for name, best in chosen.items()
    }


def _meanings(variants: Sequence[str]) -> dict[str, str]:
    return {name: KINDS[name].meaning if name in KINDS else MEANINGS[name] for name in variants}


def _write(recipe: Recipe, about: dict[str, Any], by_seed: Mapping[int, Mapping[str, Artifact]]) -> Artifact:
    lineage = {
        f"{name}/{seed}": trial.fingerprint for seed, trials in by_seed.items() for name, trial in trials.items()
    }
    path = recipe.run_dir / "ablation"
    with write_artifact(path, "ablation", lineage, about) as draft:
        (draft / "ablation.json").write_text(json.dumps(about, indent=2, allow_nan=False))
        (draft / "ablation.md").write_text(ablation_markdown(recipe.name, about))
        ablation_chart(about).savefig(draft / "ablation.png", dpi=150)
    return read_artifact(path, "ablation")


def main() -> None:
    """Runs the ablation as a program."""
    parser = recipe_arguments("ablate", __doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds to train (default: 3)")
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="VARIANT", help="these variants and oov")
    parser.add_argument("--own-splits", action="store_true", help="every seed splits the data anew")
    arguments = parser.parse_args()
    work = partial(run, count=arguments.seeds, names=arguments.only, own_splits=arguments.own_splits)
    run_program(arguments, partial(run_stage, "ablate", work), check=check)


if __name__ == "__main__":
    main()
