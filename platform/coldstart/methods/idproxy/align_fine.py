"""Fine alignment: trains the adaptor by the click loss through the frozen ranker, on Ray Train.

In joint mode a joint ranker is also trained, from the same ranker and proxies.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import Fine, settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER, adapt
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
from coldstart.training.distributed import rank
from coldstart.training.stage import TrainingStage

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


def _run_stage(recipe: Recipe, name: str, kind: str, *, epochs: int) -> Artifact:
    run_dir = recipe.run_dir.absolute()
    check_has_scorer(run_dir / "ranker")
    sources = {source: read_artifact(run_dir / source, source) for source in SOURCES}
    for source, fingerprint in sources[ITEM_TABLE].lineage.items():
        if source in sources and sources[source].fingerprint != fingerprint:
            raise UserError(f"the item table in {run_dir} is from another {source}; run the embed_items stage again")
    lineage = {source: artifact.fingerprint for source, artifact in sources.items()}
    stage = TrainingStage.of(recipe, name, [settings_of(recipe, Settings).fine], lineage)
    stage.run(_worker if name == STAGE else _joint_worker, epochs=epochs)
    return read_artifact(run_dir / kind, kind)


def _worker(stage: TrainingStage) -> None:
    settings, seed = settings_of(stage.recipe, Settings), stage.recipe.seed
    dataset, ranker, items = _read_inputs(stage.run_dir)
    adaptor, state = align_fine(ranker, dataset.sequences, items, settings.fine, stage.click_training)
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
        with write_artifact(stage.run_dir / kind, kind, stage.inputs, metadata) as draft:
            save_adaptor(adaptor, draft)
            save_id_weight(weight, draft)
            if settings.content_similarity and kind == SCORER:
                base, proxies = FrozenScorer(ranker, weight), FineProxies(adaptor)
                _save_similarity(base, adapt(proxies, items), items, dataset, draft, seed=seed)


def warmup_events(fine: Fine, curve: Mapping[int, float]) -> int:
    """Train events from which the ID row alone is used: from the recipe, or the smallest of the best choices."""
    if fine.warmup_events != "curve":
        return fine.warmup_events
    return max(curve, key=lambda events: (np.nan_to_num(curve[events], nan=-1.0), -events))


def _joint_worker(stage: TrainingStage) -> None:
    settings, seed = settings_of(stage.recipe, Settings), stage.recipe.seed
    dataset, ranker, items = _read_inputs(stage.run_dir)
    context = stage.click_training
    joint, state = align_joint(check_supports_joint(ranker), dataset.sequences, items, settings.fine, context)
    if rank() == 0:
        metadata = {
            "method": settings.name,
            "mode": "joint",
            **joint.vectors.config,
            "parameters": num_trainable(joint.vectors),
            **state.summary,
        }
        with write_artifact(stage.run_dir / SCORER, SCORER, stage.inputs, metadata) as draft:
            save_joint(joint, draft, list(dataset.item_index), dataset.item_features)
            if settings.content_similarity:
                base, proxies = JointScorer(joint), JointProxies(joint.vectors)
                _save_similarity(base, adapt(proxies, items), items, dataset, draft, seed=seed)


def _save_similarity(
    base: Scorer, columns: ItemTable, items: ItemTable, dataset: Dataset, draft: Path, *, seed: int
) -> None:
    """Fits the weights of similarities beside a trained scorer, and writes them into the scorer's directory."""
    # Imports scikit-learn and the MLLM stack, which the other ranks do not need.
    from coldstart.methods.baselines.content_similarity import DEFAULT_PENALTY, fit_similarity

    content = CenteredStates.of(items)
    table = ItemTable({**columns.columns, **adapt(content, items).columns})
    scorer = SimilarityScorer(base.cpu().eval(), {CONTENT: content.mean.numel()})
    fit_similarity(scorer, table, dataset.sequences, penalty=DEFAULT_PENALTY, seed=seed)
    save_similarity(scorer, content, draft)


def _read_inputs(run_dir: Path) -> tuple[Dataset, Ranker, ItemTable]:
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    return dataset, load_ranker(run_dir / "ranker"), ItemTable.open(run_dir / ITEM_TABLE)
