"""Compares the methods and their baselines: tunes all equally, over seeds, and tests their differences.

Every contender is tried with all settings of its grid on the first seed; the other seeds use the best. Finished trials
are kept. So the same command resumes after an interruption, and does nothing if nothing has changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe.method import METHOD_NAMES
from coldstart.data.batches import UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TEST
from coldstart.evaluation.compare.method_comparison import compare_methods
from coldstart.evaluation.compare.method_report import (
    comparison_chart,
    comparison_markdown,
    comparison_page,
    comparison_table,
)
from coldstart.evaluation.compare.recommendation import recommend
from coldstart.evaluation.compare.seed_aggregation import aggregate_modalities
from coldstart.evaluation.diagnostics.modality_ablation import BOTH, modality_ablation
from coldstart.evaluation.protocol.scored_rows import EventFacts, ScoredRows
from coldstart.evaluation.protocol.scoring import score_rows
from coldstart.evaluation.protocol.variants import BASELINE, GROUND_TRUTH, OOV_SUFFIX, VARIANTS, to_logit
from coldstart.jobs.analysis.contender_runs import (
    METHOD_CONTENDERS,
    contender_recipe,
    method_recipe,
    recipe_line,
    run_contender_stages,
    serving_settings,
)
from coldstart.jobs.analysis.evaluate import has_oracle
from coldstart.jobs.analysis.multi_seed import with_seed
from coldstart.jobs.analysis.scoring import WINDOWS_PER_PASS
from coldstart.jobs.analysis.trials import make_method_trial, make_trial, read_modalities, read_trial
from coldstart.jobs.pipeline import check, link_artifact, run_outdated_stages
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import recipe_arguments, run_program, run_stage
from coldstart.methods.base import ITEM_TABLE
from coldstart.methods.baselines.contenders import CONTENDERS, Setting
from coldstart.methods.idproxy.config import Settings
from coldstart.metrics.undefined import nan_to_none
from coldstart.rankers import load_ranker
from coldstart.training.ctr_trainer import slot_score

RANKED = ("dataset", "ranker", "oracle")
"""Kinds of artifacts that all contenders of a seed share."""
ENCODED = ("ranker", "encoder", ITEM_TABLE)
"""Kinds of IDProxy's artifacts that its variants and the baselines share."""
TRAINED = "trained_oracle"
NAMES = (*CONTENDERS, *METHOD_CONTENDERS)
"""All contenders, in the order of report tables."""
DEFAULT = tuple(name for name in NAMES if name in CONTENDERS or name in METHOD_NAMES)
"""All but ablations of methods."""


@dataclass(frozen=True)
class Seed:
    """One repetition of the comparison.

    Attributes:
        recipe: Its run has the dataset and the ranker.
        encoded: Recipe of the run with IDProxy's encoder and item table; the same, if that is the recipe's method.
    """

    recipe: Recipe
    encoded: Recipe


TrialSpec = tuple[Seed, str, Setting]


def run(recipe: Recipe, *, count: int, names: Sequence[str] = DEFAULT, own_splits: bool = False) -> Artifact:
    """Runs the missing trials and writes `<run_dir>/comparison`.

    Args:
        recipe: Of the run; its seed is the first.
        count: Number of seeds.
        names: Contenders; `oov` is always included, and with an ablation the method whose setting it takes.
        own_splits: Every seed has its own split (and its own generated data), so that the intervals include the
            variance of the split. Otherwise all seeds share the dataset of the first.

    Raises:
        UserError: a contender is unknown, `count` is below 1, or the recipe has an ID table only.
    """
    names = _checked(names, count)
    seeds = _seeds(recipe, count, own_splits=own_splits)
    metrics_log = MetricsLog(recipe.run_dir / "metrics" / "compare.jsonl")
    metrics_log.clear()
    first, *others = seeds
    following = {name: base for name in names if (base := _tuned_as(name)) is not None}
    grid_trials = [(first, name, point) for name in names if name not in following for point in _grid(name)]
    total = len(grid_trials) + len(following) + len(others) * len(names)
    tried = _run_trials(grid_trials, metrics_log, 0, total)
    chosen = {
        name: max((t for t in tried if t.metadata["variant"] == name), key=_valid)
        for name in names
        if name not in following
    }
    ablations = [(first, name, chosen[base].metadata["setting"]) for name, base in following.items()]
    tried += (followed := _run_trials(ablations, metrics_log, len(tried), total))
    chosen = {**chosen, **dict(zip(following, followed, strict=True))}
    repetitions = [(other, name, chosen[name].metadata["setting"]) for other in others for name in names]
    made = _run_trials(repetitions, metrics_log, len(tried), total)
    by_seed = {first.recipe.seed: {name: chosen[name] for name in names}}
    for place, other in enumerate(others):
        by_seed[other.recipe.seed] = dict(zip(names, made[place * len(names) :], strict=False))
    rows = {one.recipe.seed: _rows(one.recipe, by_seed[one.recipe.seed]) for one in seeds}
    methods = [name for name in names if name in METHOD_CONTENDERS or CONTENDERS[name].method]
    metadata = compare_methods(rows, recipe.evaluation, methods=methods, seed=recipe.seed, own_splits=own_splits)
    metadata["modalities"] = _modalities(rows, by_seed, recipe)
    metadata["recommendation"] = _recommendation(first, metadata, methods, chosen)
    metadata |= {"tuned": _tuned(tried, chosen, by_seed), "descriptions": _descriptions(metadata["variants"])}
    return _write(recipe, metadata, by_seed)


def _recommendation(
    seed: Seed, metadata: Mapping[str, Any], methods: Sequence[str], chosen: Mapping[str, Artifact]
) -> dict[str, Any]:
    """The variant to use, with the line of a recipe that serves it, as it was chosen on the first seed."""
    found = recommend(metadata, methods)
    name = found["variant"]
    settings = serving_settings(seed.recipe, seed.encoded.method, name, chosen[name].metadata["setting"])
    if settings is not None:
        found["recipe"] = recipe_line(settings)
        found["text"] += f" In a recipe: {found['recipe']}"
    return found


def _checked(names: Sequence[str], count: int) -> list[str]:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise UserError(f"--methods {unknown[0]}: unknown; allowed: {', '.join(NAMES)}")
    if count < 1:
        raise UserError(f"--seeds {count}: must be 1 or more")
    wanted = {BASELINE, *names, *(base for name in names if (base := _tuned_as(name)) is not None)}
    return [name for name in NAMES if name in wanted]


def _grid(name: str) -> tuple[Setting, ...]:
    return METHOD_CONTENDERS[name][1].grid if name in METHOD_CONTENDERS else CONTENDERS[name].grid


def _tuned_as(name: str) -> str | None:
    return METHOD_CONTENDERS[name][1].tuned_as if name in METHOD_CONTENDERS else None


def _seeds(recipe: Recipe, count: int, *, own_splits: bool) -> list[Seed]:
    """The recipes of every seed, after bringing the stages that contenders share up to date."""
    if recipe.ranker.pretrained.id_table is not None:
        raise UserError(
            "an ID table alone scores nothing; the comparison needs a whole ranker (ranker.pretrained.weights, or none)"
        )
    _, artifacts = run_outdated_stages(recipe, kinds=RANKED)
    found = [_encoded(recipe)]
    for seed in range(recipe.seed + 1, recipe.seed + count):
        CONSOLE.print(f"[bold]seed {seed}[/]")
        if own_splits:
            other = with_seed(recipe, seed, folder="splits")
            run_outdated_stages(other, kinds=RANKED)
        else:
            other = with_seed(recipe, seed)
            link_artifact(artifacts["dataset"].path, other.run_dir / "dataset")
            run_outdated_stages(other, artifacts["dataset"], kinds=RANKED)
        found.append(_encoded(other))
    return found


def _encoded(recipe: Recipe) -> Seed:
    """The seed of a recipe, after bringing IDProxy's encoder and item table up to date."""
    if isinstance(recipe.method, Settings):
        dataset = read_artifact(recipe.run_dir / "dataset", "dataset", verify=False)
        run_outdated_stages(recipe, dataset, kinds=ENCODED)
        return Seed(recipe, recipe)
    name = Settings.model_fields["name"].default
    encoded = method_recipe(recipe, name, {}, folder=name)
    run_contender_stages(recipe, encoded, kinds=ENCODED)
    return Seed(recipe, encoded)


def _run_trials(work: Sequence[TrialSpec], metrics_log: MetricsLog, before: int, total: int) -> list[Artifact]:
    """Runs trials, `cluster.workers` at a time; the result has the order of `work`."""
    if not work:
        return []
    cluster = work[0][0].recipe.cluster
    # Adaptors and rankers are small, so trials run on the CPU.
    running, found = dict[Any, int](), dict[int, Artifact]()
    todo = iter(enumerate(work))
    metrics_log.write(before, total)
    while len(found) < len(work):
        while len(running) < cluster.workers and (following := next(todo, None)):
            index, spec = following
            running[_start_trial(*spec)] = index
        (done,), _ = ray.wait(list(running))
        trial = ray.get(done)
        found[running.pop(done)] = trial
        name, valid = trial.metadata["variant"], trial.metadata["valid_gauc"]
        metrics_log.write(before + len(found), total, **{f"{name}_valid_gauc": valid})
    return [found[index] for index in range(len(work))]


def _start_trial(seed: Seed, name: str, setting: Setting) -> Any:
    """Starts a trial as a Ray task, after the stages of a method have run on all workers."""
    make, recipe = make_trial, seed.encoded
    if name in METHOD_CONTENDERS:
        make, recipe = make_method_trial, contender_recipe(seed.recipe, name, setting)
        run_contender_stages(seed.recipe, recipe)
    return ray.remote(num_cpus=recipe.cluster.cpus_per_worker, max_retries=3)(make).remote(recipe, name, setting)


def _valid(trial: Artifact) -> float:
    return float(np.nan_to_num(trial.metadata["valid_gauc"], nan=-1.0))


def _rows(recipe: Recipe, trials: Mapping[str, Artifact]) -> ScoredRows:
    """Test rows of one seed, with the scores of all variants and of the available oracles."""
    dataset = Dataset.open(recipe.run_dir / "dataset", verify=False)
    sequences, facts = dataset.sequences, EventFacts(dataset)
    logits: dict[str, Any] = {}
    item_effect: dict[str, Any] = {}
    for name, trial in trials.items():
        event, scores, by_item = read_trial(trial, dataset.num_items + 1)
        logits |= scores
        item_effect[name] = by_item[sequences.item_idx[event]]
    if has_oracle(recipe):
        logits |= _oracle(recipe, dataset)
    for name, truth in zip(GROUND_TRUTH, (sequences.p_click_content, sequences.p_click), strict=True):
        if truth is not None:
            logits[name] = to_logit(truth[event])
    return facts.rows(event, logits, item_effect)


def _modalities(
    rows: Mapping[int, ScoredRows], by_seed: Mapping[int, Mapping[str, Artifact]], recipe: Recipe
) -> dict[str, Any]:
    """Variant -> contribution of image and text, of the variants that were scored with each alone."""

    def measure(seed: int, name: str) -> dict[str, Any] | None:
        found = read_modalities(by_seed[seed][name])
        if found is None:
            return None
        event, single = found
        scored = rows[seed].take(np.searchsorted(rows[seed].event, event))
        logits = {BOTH: scored.logits[name], **single}
        unknown = scored.logits[name + OOV_SUFFIX]
        return modality_ablation(scored.user_idx, scored.label, unknown, logits, recipe.evaluation, seed=seed)

    names = next(iter(by_seed.values()))
    measured = {name: aggregate_modalities([measure(seed, name) for seed in rows]) for name in names}
    return dict(nan_to_none({name: found for name, found in measured.items() if found is not None}))


def _oracle(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    oracle = load_ranker(recipe.run_dir / "oracle")
    windows = UserWindows(dataset.sequences, history=oracle.max_history, splits=[TEST])
    ids = oracle.id_slots(torch.arange(oracle.vocab_size)).detach()
    scores = {TRAINED: slot_score(oracle, ids), TRAINED + OOV_SUFFIX: slot_score(oracle, ids[:1].expand_as(ids))}
    _, logits = score_rows(windows.iter_eval(windows_per_step=WINDOWS_PER_PASS), scores)
    return logits


def _tuned(
    tried: Sequence[Artifact], chosen: Mapping[str, Artifact], by_seed: Mapping[int, Mapping[str, Artifact]]
) -> dict[str, Any]:
    """By variant: the chosen setting, all settings with their validation GAUC, and the training time."""
    keys = ("setting", "parameters", "valid_gauc", "us_per_candidate", "ms_per_item", "bytes_per_item")
    return {
        name: {key: best.metadata[key] for key in keys}
        | {
            "tried": [
                {key: t.metadata[key] for key in (*keys, "epochs")} for t in tried if t.metadata["variant"] == name
            ],
            "seconds": [trials[name].metadata["seconds"] for trials in by_seed.values()],
        }
        for name, best in chosen.items()
    }


def _descriptions(variants: Sequence[str]) -> dict[str, str]:
    described = {name: info.description for name, info in VARIANTS.items()}
    described |= {name: spec.description for name, spec in CONTENDERS.items()}
    described |= {name: info.description for name, (_, info) in METHOD_CONTENDERS.items()}
    return {name: described[name] for name in variants}


def _write(recipe: Recipe, metadata: dict[str, Any], by_seed: Mapping[int, Mapping[str, Artifact]]) -> Artifact:
    lineage = {
        f"{name}/{seed}": trial.fingerprint for seed, trials in by_seed.items() for name, trial in trials.items()
    }
    path = recipe.run_dir / "comparison"
    with write_artifact(path, "comparison", lineage, metadata) as draft:
        (draft / "comparison.json").write_text(json.dumps(metadata, indent=2, allow_nan=False))
        (draft / "comparison.md").write_text(comparison_markdown(recipe.name, metadata))
        (draft / "comparison.html").write_text(comparison_page(recipe.name, metadata))
        comparison_chart(metadata).savefig(draft / "comparison.png", dpi=150)
    CONSOLE.print(comparison_table(metadata))
    CONSOLE.print(metadata["recommendation"]["text"], soft_wrap=True)
    return read_artifact(path, "comparison")


def main() -> None:
    """Runs the comparison as a program."""
    parser = recipe_arguments("compare", __doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds to train (default: 3)")
    only = f"only these, and oov; allowed: {', '.join(NAMES)} (default: all but ablations of methods)"
    parser.add_argument("--methods", nargs="+", default=DEFAULT, metavar="NAME", help=only)
    parser.add_argument("--own-splits", action="store_true", help="every seed has its own split of the data")
    arguments = parser.parse_args()
    work = partial(run, count=arguments.seeds, names=arguments.methods, own_splits=arguments.own_splits)
    run_program(arguments, partial(run_stage, "compare", work), check=check)
