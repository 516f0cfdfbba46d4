"""Measures what the proxies are worth: every variant on the same test rows, with intervals, into a report."""

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.alignment import Adaptor, fine_proxies, load_adaptor, load_joint
from coldstart.alignment.content_map import fit_content_map
from coldstart.alignment.hand_over import load_id_shares
from coldstart.config import Artifact, Journal, Recipe, UserError, dump_recipe, read_artifact, write_artifact
from coldstart.data.content import decode_picture
from coldstart.data.dataset import Dataset, part_path
from coldstart.encoders.proxies import read_proxies
from coldstart.evaluation.exhibits import Geometry, draw_charts, item_cards, neighbourhoods
from coldstart.evaluation.facets import facets
from coldstart.evaluation.neighbours import Card
from coldstart.evaluation.protocol import Protocol
from coldstart.evaluation.report import Chart, Evidence, render
from coldstart.evaluation.runs import RECIPE, SCORES, scores_by_metric
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.segments import worst_segments
from coldstart.evaluation.slices import warm_up_edges
from coldstart.evaluation.slots import slot_tables
from coldstart.evaluation.summary import Summary, summarise, without_nan
from coldstart.rankers import Ranker, load_ranker
from coldstart.rankers.storage import check_whole
from coldstart.training.cold_rows import levelled
from workloads.diagnose import Diagnosed, diagnose, listed_items
from workloads.job import recipe_arguments, run_program, run_stage
from workloads.measure import measure_parts
from workloads.scoring import score_everything

KINDS = ("dataset", "ranker", "encoder", "proxies", "adaptor")
SERVED = "release"
ORACLE = "oracle"
"""Kind of the ranker that was trained with held-out items."""
JOINT = "joint"
REMAKE = {
    "ranker": "train_ranker",
    "oracle": "train_oracle",
    "encoder": "align_coarse",
    "proxies": "embed_items",
    "adaptor": "align_fine",
    JOINT: "align_fine",
}
PACKAGES = ("coldstart", "ray", "torch", "transformers", "deepspeed", "numpy")
TRAINED = ("train_ranker", "align_coarse", "align_fine")
"""Stages whose journals hold training curves."""
HELD_ROWS = 2_000_000
"""Rows that one process holds to look for weak segments and at items; of more, those of a sample of users."""


def run(recipe: Recipe) -> Artifact:
    """Evaluates the models of a run on its test rows.

    Raises:
        UserError: an artifact is missing, artifacts were not made from each other, or there is nothing to evaluate.
    """
    check_whole(recipe.run_dir / "ranker")
    artifacts = open_artifacts(recipe.run_dir, others(recipe))
    dataset = Dataset(artifacts["dataset"])
    ranker = load_ranker(artifacts["ranker"].path)
    adaptor = load_adaptor(artifacts["adaptor"].path)
    coarse, states = _proxies(artifacts["proxies"], dataset)
    shares = load_id_shares(artifacts["adaptor"].path, ranker.trained)
    tables = _tables(recipe, dataset, ranker, adaptor, coarse, states, shares)
    tables |= _other_tables(artifacts, coarse, states)
    lineage = {kind: artifact.fingerprint for kind, artifact in artifacts.items()}
    path = recipe.run_dir / "evaluation"
    summary: Summary = {}
    with write_artifact(path, "evaluation", lineage, summary) as draft:
        scores = draft / SCORES
        scores.mkdir()
        if not score_everything(recipe, dataset, tables, scores):
            raise UserError("the dataset has no test rows; raise data.split.test and prepare it again")
        rows = ScoredRows.read(scores, most=HELD_ROWS)
        summary |= _measure(recipe, dataset, scores, rows)
        diagnosed = Diagnosed(
            recipe,
            dataset,
            ranker,
            adaptor,
            coarse,
            states,
            tables,
            _mature(recipe, dataset, ranker),
            artifacts["proxies"].path,
        )
        diagnosis, gains = diagnose(diagnosed, rows)
        summary["diagnosis"] = without_nan(diagnosis)
        geometry = _geometry(recipe, dataset, ranker, tables)
        journals = {stage: Journal(recipe.run_dir / "journals" / f"{stage}.jsonl").read() for stage in TRAINED}
        charts = draw_charts(summary, geometry, journals)
        decode = partial(
            decode_picture, max_bytes=recipe.data.max_picture_bytes, max_pixels=recipe.data.max_picture_pixels
        )
        around = neighbourhoods(geometry, dataset.contents, decode, seed=recipe.seed)
        cards = item_cards(dataset, listed_items(gains), decode)
        (draft / RECIPE).write_text(dump_recipe(recipe))
        _write(draft, _evidence(recipe, summary, charts, around, cards, dataset, lineage))
    return read_artifact(path, "evaluation")


def has_oracle(recipe: Recipe) -> bool:
    """Whether held-out items have early events, and the ranker is one that we train."""
    return recipe.data.split.kind == "item_holdout" and recipe.bring.weights is None


def others(recipe: Recipe) -> tuple[str, ...]:
    """Kinds of models that are evaluated beside the release's, if the recipe has them made."""
    asked = {ORACLE: has_oracle(recipe), JOINT: recipe.fine.mode == "joint"}
    return tuple(kind for kind, wanted in asked.items() if wanted)


def open_artifacts(run_dir: Path, others: Sequence[str] = ()) -> dict[str, Artifact]:
    """The artifacts that are evaluated together, and those of other kinds.

    Raises:
        UserError: one is missing or damaged, or was made from another one than stands beside it.
    """
    artifacts = {kind: read_artifact(run_dir / kind, kind) for kind in (*KINDS, *others)}
    for kind, artifact in artifacts.items():
        for source, fingerprint in artifact.lineage.items():
            if source in artifacts and artifacts[source].fingerprint != fingerprint:
                raise UserError(
                    f"the {kind} in {run_dir} was made from {source} {fingerprint[:12]}, but {source} "
                    f"{artifacts[source].fingerprint[:12]} stands beside it; run {REMAKE[kind]} again"
                )
    return artifacts


def _proxies(proxies: Artifact, dataset: Dataset) -> tuple[Tensor, Tensor]:
    coarse, states = read_proxies(proxies.path, dataset.num_items, groups=int(proxies.about["groups"]))
    return torch.from_numpy(coarse), torch.from_numpy(states)


def _tables(
    recipe: Recipe,
    dataset: Dataset,
    ranker: Ranker,
    adaptor: Adaptor,
    coarse: Tensor,
    states: Tensor,
    id_shares: Tensor,
) -> dict[str, Tensor]:
    fine = fine_proxies(adaptor, coarse, states)
    mature = _mature(recipe, dataset, ranker)
    tables = slot_tables(
        ranker,
        mapped=fit_content_map(states, ranker.id_rows(), mature, seed=recipe.seed),
        coarse=coarse,
        fine=fine,
        id_shares=id_shares,
        mature=mature,
    )
    # Fine proxies are levelled when they are aligned; what they are compared with is not to lose by that.
    return tables | {name: levelled(tables[name], ranker, dataset.sequences) for name in ("mlp_map", "coarse")}


def _other_tables(artifacts: dict[str, Artifact], coarse: Tensor, states: Tensor) -> dict[str, Tensor]:
    """Slot tables of variants that other models score than the ranker."""
    found = {}
    if ORACLE in artifacts:
        with torch.inference_mode():
            found["trained_oracle"] = load_ranker(artifacts[ORACLE].path).id_slots(torch.arange(len(coarse)))
    if JOINT in artifacts:
        found["joint"] = load_joint(artifacts[JOINT].path).table(coarse, states)
    return found


def _mature(recipe: Recipe, dataset: Dataset, ranker: Ranker) -> NDArray[np.bool_]:
    mature: NDArray[np.bool_] = (dataset.train_counts >= recipe.coarse.min_events) & ranker.trained.numpy()
    return mature


def _geometry(recipe: Recipe, dataset: Dataset, ranker: Ranker, tables: dict[str, Tensor]) -> Geometry:
    cold = np.flatnonzero(dataset.train_counts[1:] == 0) + 1
    return Geometry(tables, np.flatnonzero(_mature(recipe, dataset, ranker)), cold)


def _measure(recipe: Recipe, dataset: Dataset, scores: Path, rows: ScoredRows) -> Summary:
    clicks = np.asarray(dataset.items(["num_train_clicks"])["num_train_clicks"])
    columns = pq.read_schema(part_path(scores, 0)).names
    protocol = Protocol.of(columns, recipe.evaluation, edges=warm_up_edges(clicks))
    summary = summarise(measure_parts(scores, protocol), recipe.evaluation, seed=recipe.seed)
    return {**summary, "protocol": recipe.data.split.kind, "segments": _weak_segments(recipe, dataset, rows)}


def _weak_segments(recipe: Recipe, dataset: Dataset, rows: ScoredRows) -> dict[str, Any]:
    """Where what is served ranks worst."""
    found = worst_segments(
        rows.user_idx,
        rows.label,
        scores_by_metric(rows)["gauc_item"][SERVED],
        facets(dataset, rows),
        confidence=recipe.evaluation.confidence,
        resamples=recipe.evaluation.bootstrap,
        seed=recipe.seed,
    )
    return dict(without_nan({"variant": SERVED, **found}))


def _evidence(
    recipe: Recipe,
    summary: Summary,
    charts: list[Chart],
    around: list[Any],
    cards: dict[str, Card],
    dataset: Dataset,
    lineage: dict[str, str],
) -> Evidence:
    return Evidence(
        name=recipe.name,
        summary=summary,
        charts=charts,
        neighbourhoods=around,
        dataset=dict(_facts(dataset.artifact.about)),
        lineage=lineage,
        versions={package: version(package) for package in PACKAGES},
        command=f"coldstart submit pipeline --recipe {recipe.run_dir / 'recipe.yaml'}",
        written_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        cards=cards,
    )


def _facts(about: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of a manifest, nested ones under joined names, moments as dates."""
    for key, value in about.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            yield from _facts(value, name)
        elif (above == "time cuts" or key == "last_event_at") and value is not None:
            yield name, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(value))
        elif not isinstance(value, list):
            yield name, value


def _write(draft: Path, evidence: Evidence) -> None:
    (draft / "evaluation.json").write_text(json.dumps(evidence.summary, indent=2, allow_nan=False))
    (draft / "report.html").write_text(render(evidence))
    (draft / "plots").mkdir()
    for chart in evidence.charts:
        chart.figure.savefig(draft / "plots" / f"{chart.name}.png", dpi=150)


def main() -> None:
    """Evaluates as a program, one training or several seeds."""
    parser = recipe_arguments("evaluate", __doc__)
    parser.add_argument("--seeds", type=int, metavar="N", help="train and evaluate N seeds, and put them together")
    arguments = parser.parse_args()
    if arguments.seeds is None:
        run_program(arguments, partial(run_stage, "evaluate", run))
    else:
        # Other seeds are trained, too: the pipeline, which imports this module.
        from workloads import seeds

        run_program(arguments, partial(seeds.run, count=arguments.seeds))


if __name__ == "__main__":
    main()
