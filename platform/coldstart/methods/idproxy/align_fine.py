"""Fine alignment: trains the adaptor by the click loss through the frozen ranker, on Ray Train.

In joint mode a joint ranker is also trained, from the same ranker and proxies.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import Fine, settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER, adapt
from coldstart.methods.baselines.content_similarity import DEFAULT_PENALTY, fit_similarity
from coldstart.methods.baselines.similarity_scorer import CONTENT, CenteredStates, SimilarityScorer, save_similarity
from coldstart.methods.idproxy.adaptor import save_adaptor
from coldstart.methods.idproxy.config import Settings
from coldstart.methods.idproxy.fine_training import align_fine, select_warmup_events
from coldstart.methods.idproxy.item_vectors import num_trainable
from coldstart.methods.idproxy.joint_ranker import check_supports_joint, save_joint
from coldstart.methods.idproxy.joint_training import align_joint
from coldstart.methods.idproxy.scorers import FineProxies, FrozenScorer, JointProxies, JointScorer
from coldstart.methods.idproxy.warmup_blend import id_weight, save_id_weight
from coldstart.metrics.clicks import gauc
from coldstart.metrics.undefined import nan_to_none
from coldstart.rankers import Ranker, load_ranker
from coldstart.rankers.scorer import Scorer
from coldstart.rankers.storage import check_has_scorer, weights_sha256
from coldstart.training.ctr_trainer import TrainingContext
from coldstart.training.distributed import rank
from coldstart.training.launch import launch

STAGE, JOINT = "align_fine", "align_joint"
ADAPTOR = "adaptor"
"""Kind of the frozen ranker's adaptor where the scorer is a joint ranker: it is evaluated beside it, not served."""
SOURCES = ("dataset", "ranker", "encoder", ITEM_TABLE)


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's item table and events, and writes `<run_dir>/scorer` (`adaptor` in joint mode).

    An interrupted run continues after its last finished epoch.

    Raises:
        UserError: the result of an earlier stage is missing, damaged, or from another ranker.
    """
    settings = settings_of(recipe, Settings)
    return _run_stage(recipe, STAGE, adaptor_kind(settings), epochs=settings.fine.epochs)


def adaptor_kind(settings: Settings) -> str:
    """Kind of the artifact with the adaptor of the frozen ranker."""
    return SCORER if settings.mode == "frozen" else ADAPTOR


def run_joint(recipe: Recipe) -> Artifact:
    """Trains a joint ranker on the same inputs as `run`, and writes `<run_dir>/scorer`.

    Raises:
        UserError: as in `run`, or the ranker has no separate interaction part.
    """
    check_supports_joint(load_ranker(recipe.run_dir / "ranker"))
    return _run_stage(recipe, JOINT, SCORER, epochs=settings_of(recipe, Settings).fine.joint.epochs)


def _run_stage(recipe: Recipe, stage: str, kind: str, *, epochs: int) -> Artifact:
    run_dir = recipe.run_dir.absolute()
    check_has_scorer(run_dir / "ranker")
    sources = {source: read_artifact(run_dir / source, source) for source in SOURCES}
    for source, fingerprint in sources[ITEM_TABLE].lineage.items():
        if source in sources and sources[source].fingerprint != fingerprint:
            raise UserError(f"the item table in {run_dir} is from another {source}; run the embed_items stage again")
    lineage = {source: artifact.fingerprint for source, artifact in sources.items()}
    settings = digest([settings_of(recipe, Settings).fine, recipe.seed, lineage])
    checkpoints = run_dir / "checkpoints" / stage / settings[:16]
    metrics_log = MetricsLog(run_dir / "metrics" / f"{stage}.jsonl")
    if not checkpoints.exists():
        metrics_log.clear()
        metrics_log.write(0, epochs)
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "lineage": lineage,
        "checkpoints": str(checkpoints),
    }
    worker = _worker if stage == STAGE else _joint_worker
    launch(worker, payload, cluster=recipe.cluster, name=stage, storage=run_dir / "checkpoints", inputs=lineage)
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / kind, kind)


def _worker(payload: dict[str, Any]) -> None:
    recipe, run_dir, dataset, ranker, items = _read_inputs(payload)
    settings, context = settings_of(recipe, Settings), _context(payload, recipe, STAGE)
    adaptor, state = align_fine(ranker, dataset.sequences, items, settings.fine, context)
    curve = select_warmup_events(adaptor, ranker, dataset.sequences, items, gauc=gauc)
    if rank() == 0:
        events = warmup_events(settings.fine, curve)
        weight = id_weight(torch.from_numpy(dataset.train_counts), ranker.trained.cpu(), warmup_events=events)
        metadata = {
            "method": settings.name,
            "mode": "frozen",
            **adaptor.config,
            "warmup_events": events,
            "warmup_curve": nan_to_none({str(choice): round(value, 5) for choice, value in curve.items()}),
            "parameters": num_trainable(adaptor),
            **state.summary,
            "ranker_weights_sha256": weights_sha256(ranker),
        }
        kind = adaptor_kind(settings)
        with write_artifact(run_dir / kind, kind, payload["lineage"], metadata) as draft:
            save_adaptor(adaptor, draft)
            save_id_weight(weight, draft)
            if settings.content_similarity and kind == SCORER:
                base, proxies = FrozenScorer(ranker, weight), FineProxies(adaptor)
                _save_similarity(base, adapt(proxies, items), items, dataset, draft, seed=recipe.seed)


def warmup_events(fine: Fine, curve: Mapping[int, float]) -> int:
    """Train events from which the ID row alone is used: from the recipe, or the smallest of the best choices."""
    if fine.warmup_events != "curve":
        return fine.warmup_events
    return max(curve, key=lambda events: (np.nan_to_num(curve[events], nan=-1.0), -events))


def _joint_worker(payload: dict[str, Any]) -> None:
    recipe, run_dir, dataset, ranker, items = _read_inputs(payload)
    settings, context = settings_of(recipe, Settings), _context(payload, recipe, JOINT)
    joint, state = align_joint(check_supports_joint(ranker), dataset.sequences, items, settings.fine, context)
    if rank() == 0:
        metadata = {
            "method": settings.name,
            "mode": "joint",
            **joint.vectors.config,
            "parameters": num_trainable(joint.vectors),
            **state.summary,
        }
        with write_artifact(run_dir / SCORER, SCORER, payload["lineage"], metadata) as draft:
            save_joint(joint, draft, list(dataset.item_index), dataset.item_features)
            if settings.content_similarity:
                base, proxies = JointScorer(joint), JointProxies(joint.vectors)
                _save_similarity(base, adapt(proxies, items), items, dataset, draft, seed=recipe.seed)


def _save_similarity(
    base: Scorer, columns: ItemTable, items: ItemTable, dataset: Dataset, draft: Path, *, seed: int
) -> None:
    """Fits the weights of similarities beside a trained scorer, and writes them into the scorer's directory."""
    content = CenteredStates.of(items)
    table = ItemTable({**columns.columns, **adapt(content, items).columns})
    scorer = SimilarityScorer(base.cpu().eval(), {CONTENT: content.mean.numel()})
    fit_similarity(scorer, table, dataset.sequences, penalty=DEFAULT_PENALTY, seed=seed)
    save_similarity(scorer, content, draft)


def _context(payload: dict[str, Any], recipe: Recipe, stage: str) -> TrainingContext:
    return TrainingContext(
        seed=recipe.seed,
        gauc=gauc,
        metrics_log=MetricsLog(Path(payload["run_dir"]) / "metrics" / f"{stage}.jsonl"),
        checkpoints=Path(payload["checkpoints"]),
    )


def _read_inputs(payload: dict[str, Any]) -> tuple[Recipe, Path, Dataset, Ranker, ItemTable]:
    """Reads the inputs of the stage in the training process."""
    recipe = Recipe.model_validate(payload["recipe"])
    run_dir = Path(payload["run_dir"])
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    return recipe, run_dir, dataset, load_ranker(run_dir / "ranker"), ItemTable.open(run_dir / ITEM_TABLE)
