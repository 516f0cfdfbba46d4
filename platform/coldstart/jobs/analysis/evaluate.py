"""Evaluates all variants of a run on the same test rows, with confidence intervals, and writes a report."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, dump_recipe, read_artifact, write_artifact
from coldstart.config.recipe.method import RELEASE
from coldstart.data.content import decode_image
from coldstart.data.dataset import Dataset, part_path
from coldstart.data.item_table import ItemTable
from coldstart.evaluation.compare.evaluated_runs import RECIPE, SCORES, scores_by_metric
from coldstart.evaluation.diagnostics.neighbors import ItemNeighbors, NeighborSpace
from coldstart.evaluation.diagnostics.slice_attributes import slice_attributes
from coldstart.evaluation.diagnostics.slice_finder import find_worst_slices
from coldstart.evaluation.protocol.protocol import EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import warm_up_edges
from coldstart.evaluation.protocol.summary import Summary, build_summary
from coldstart.evaluation.report.run_report import ReportData, render_report
from coldstart.evaluation.report.sections import Geometry, draw_charts, item_cards, item_neighbors
from coldstart.jobs.analysis.compute_metrics import compute_metrics_from_parts
from coldstart.jobs.analysis.diagnostics import DiagnosticsInputs, diagnose, listed_items
from coldstart.jobs.analysis.scoring import score_test_rows
from coldstart.jobs.runner import recipe_arguments, run_program, run_stage
from coldstart.jobs.stages import train_oracle
from coldstart.methods.available import find_method
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Parts, Stage, Variant, continued_datasets
from coldstart.methods.baselines.variants import baseline_variants
from coldstart.metrics.undefined import nan_to_none
from coldstart.rankers import load_ranker
from coldstart.rankers.scorer import Scorer, SlotScorer, slot_table
from coldstart.rankers.storage import check_has_scorer

ORACLE = "oracle"
"""Kind of the ranker that was trained with held-out items."""
PACKAGES = ("coldstart", "ray", "torch", "transformers", "deepspeed", "numpy")
MAX_ROWS = 2_000_000
"""Rows in one process for weak slices and item gains. With more rows, a sample of users is used."""


def run(recipe: Recipe) -> Artifact:
    """Evaluates the models of a run on its test rows.

    Raises:
        UserError: an artifact is missing, the lineage of artifacts does not match, or there are no test rows.
    """
    check_has_scorer(recipe.run_dir / "ranker")
    method = find_method(recipe.method.name)
    artifacts = open_artifacts(recipe)
    parts = {kind: artifact.path for kind, artifact in artifacts.items()}
    dataset = Dataset(artifacts["dataset"])
    ranker = load_ranker(parts["ranker"])
    items = ItemTable.open(parts[ITEM_TABLE])
    baselines = baseline_variants(ranker, dataset, items, seed=recipe.seed)
    variants = [*baselines, *method.variants(recipe, dataset, parts), *_oracle(parts)]
    lineage = {kind: artifact.fingerprint for kind, artifact in artifacts.items()}
    path = recipe.run_dir / "evaluation"
    summary: Summary = {}
    with write_artifact(path, "evaluation", lineage, summary) as draft:
        scores = draft / SCORES
        scores.mkdir()
        if not score_test_rows(recipe, dataset, variants, parts, scores):
            raise UserError("the dataset has no test rows; raise data.split.test and prepare it again")
        rows = ScoredRows.read(scores, max_rows=MAX_ROWS)
        summary |= _metrics(recipe, dataset, scores, rows)
        named = {one.name: one for one in variants}
        evaluated_run = DiagnosticsInputs(
            recipe,
            dataset,
            ranker,
            parts,
            named[recipe.method.headline],
            method.diagnostics(recipe, dataset, parts),
            _slot_tables(variants),
            dataset.mature(ranker.trained.numpy(), recipe.mature_events),
        )
        diagnostics, gains = diagnose(evaluated_run, rows)
        summary["diagnostics"] = nan_to_none(diagnostics)
        neighbors = _neighbors(evaluated_run, method, named[RELEASE])
        report = ReportData(
            **_facts_of_run(recipe, dataset, lineage),
            summary=summary,
            charts=draw_charts(summary, _geometry(evaluated_run), _metrics_logs(recipe, method)),
            item_neighbors=neighbors,
            cards=item_cards(dataset, listed_items(gains), _decoder(recipe)),
            findings={name: finding.text for name, finding in evaluated_run.method.findings.items()},
        )
        (draft / RECIPE).write_text(dump_recipe(recipe))
        _write(draft, report)
    return read_artifact(path, "evaluation")


def has_oracle(recipe: Recipe) -> bool:
    """Whether the recipe trains an oracle: items are held out and the ranker is not imported."""
    return recipe.data.split.kind == "item_holdout" and recipe.ranker.pretrained.weights is None


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages whose artifacts are evaluated together."""
    oracle = (Stage("train_oracle", ORACLE, train_oracle.run, ("ranker",), ("dataset",)),) if has_oracle(recipe) else ()
    return (*find_method(recipe.method.name).stages(recipe), *oracle)


def open_artifacts(recipe: Recipe) -> dict[str, Artifact]:
    """Opens the artifacts that are evaluated together, by kind.

    Raises:
        UserError: an artifact is missing or damaged, or its lineage does not match the other artifacts.
    """
    writers = {"dataset": "prepare", "ranker": "train_ranker"}
    writers |= {one.output: one.name for one in stages(recipe) if not one.intermediate}
    artifacts = {kind: read_artifact(recipe.run_dir / kind, kind) for kind in writers}
    continued = continued_datasets(artifacts[SCORER]) if SCORER in artifacts else ()
    for kind, artifact in artifacts.items():
        for source, fingerprint in artifact.lineage.items():
            if source == "dataset" and fingerprint in continued:
                continue
            if source in artifacts and artifacts[source].fingerprint != fingerprint:
                raise UserError(
                    f"the {kind} in {recipe.run_dir} was made from {source} {fingerprint[:12]}, but {source} "
                    f"{artifacts[source].fingerprint[:12]} is there now; run {writers[kind]} again"
                )
    return artifacts


def _oracle(parts: Parts) -> list[Variant]:
    """The ranker that was trained with held-out items, if the run has one."""
    if ORACLE not in parts:
        return []
    oracle = load_ranker(parts[ORACLE])
    with torch.inference_mode():
        ids = oracle.id_slots(torch.arange(oracle.vocab_size))
    return [Variant("trained_oracle", _load_oracle, slot_table(ids), own_model=True, item_effect=True)]


def _load_oracle(parts: Parts) -> Scorer:
    return SlotScorer(load_ranker(parts[ORACLE])).eval()


def _slot_tables(variants: list[Variant]) -> dict[str, Tensor]:
    return {one.name: one.items.columns["slot"] for one in variants if "slot" in one.items.columns}


def _geometry(run: DiagnosticsInputs) -> Geometry | None:
    """Slot vectors and ID rows, if the method fills item slots."""
    if not run.method.slots:
        return None
    return Geometry(run.tables, run.method.slots, np.flatnonzero(run.mature), run.dataset.cold_items)


def _neighbors(run: DiagnosticsInputs, method: Method, served: Variant) -> list[ItemNeighbors]:
    """Mature items next to cold ones, by the same vectors as the served search for similar items."""
    known, vectors = method.neighbor_rows(run.parts)
    rows = served.items.columns[method.neighbor_column(run.parts)].clone()
    rows[known] = torch.from_numpy(vectors)
    mature = known[run.mature[known]]
    space = NeighborSpace(rows, mature, run.dataset.cold_items)
    return item_neighbors(space, run.dataset.contents, _decoder(run.recipe), seed=run.recipe.seed)


def _metrics_logs(recipe: Recipe, method: Method) -> dict[str, list[dict[str, Any]]]:
    """Stage -> its metrics log, for training curves."""
    stages = ("train_ranker", *(stage.name for stage in method.stages(recipe)))
    return {stage: MetricsLog(recipe.run_dir / "metrics" / f"{stage}.jsonl").read() for stage in stages}


def _decoder(recipe: Recipe) -> Callable[[bytes], Image.Image]:
    return partial(decode_image, max_bytes=recipe.data.max_image_bytes, max_pixels=recipe.data.max_image_pixels)


def _metrics(recipe: Recipe, dataset: Dataset, scores: Path, rows: ScoredRows) -> Summary:
    clicks = np.asarray(dataset.items(["num_train_clicks"])["num_train_clicks"])
    columns = pq.read_schema(part_path(scores, 0)).names
    protocol = EvaluationProtocol.of(
        columns, recipe.evaluation, edges=warm_up_edges(clicks), headline=recipe.method.headline
    )
    summary = build_summary(compute_metrics_from_parts(scores, protocol), recipe.evaluation, seed=recipe.seed)
    return {**summary, "protocol": recipe.data.split.kind, "weak_slices": _weak_slices(recipe, dataset, rows)}


def _weak_slices(recipe: Recipe, dataset: Dataset, rows: ScoredRows) -> dict[str, Any]:
    """The slices on which the served scores rank worst."""
    found = find_worst_slices(
        rows.user_idx,
        rows.label,
        scores_by_metric(rows)["gauc_item"][RELEASE],
        slice_attributes(dataset, rows),
        confidence=recipe.evaluation.confidence,
        resamples=recipe.evaluation.num_resamples,
        seed=recipe.seed,
    )
    return dict(nan_to_none({"variant": RELEASE, **found}))


def _facts_of_run(recipe: Recipe, dataset: Dataset, lineage: dict[str, str]) -> dict[str, Any]:
    """What the report says about the run itself, by field of `ReportData`."""
    return {
        "name": recipe.name,
        "dataset": dict(_facts(dataset.artifact.metadata)),
        "lineage": lineage,
        "versions": {package: version(package) for package in PACKAGES},
        "command": f"coldstart submit pipeline --recipe {recipe.run_dir / 'recipe.yaml'}",
        "written_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _facts(metadata: dict[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a manifest, with flattened names, and times as dates."""
    for key, value in metadata.items():
        name = f"{parent} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            yield from _facts(value, name)
        elif (parent == "time cuts" or key == "last_event_at") and value is not None:
            yield name, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(value))
        elif not isinstance(value, list):
            yield name, value


def _write(draft: Path, report: ReportData) -> None:
    (draft / "evaluation.json").write_text(json.dumps(report.summary, indent=2, allow_nan=False))
    (draft / "report.html").write_text(render_report(report))
    (draft / "plots").mkdir()
    for chart in report.charts:
        chart.figure.savefig(draft / "plots" / f"{chart.name}.png", dpi=150)


def main() -> None:
    """Evaluates one run, or several seeds with --seeds, as a program."""
    parser = recipe_arguments("evaluate", __doc__)
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="train and evaluate N seeds, and aggregate their metrics"
    )
    arguments = parser.parse_args()
    if arguments.seeds is None:
        run_program(arguments, partial(run_stage, "evaluate", run))
    else:
        # Imported here: it runs the pipeline to train the other seeds, and the pipeline imports this module.
        from coldstart.jobs.analysis import multi_seed

        run_program(arguments, partial(multi_seed.run, count=arguments.seeds))
