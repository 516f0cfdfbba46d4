"""Stage 3 of MIM as a workload: trains CiUBM on Ray Train, from the run's ranker and item table."""

import shutil
from pathlib import Path
from typing import Any

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.mim.config import Settings
from coldstart.methods.mim.content_stages import ENCODER
from coldstart.methods.mim.interest_training import train_scorer
from coldstart.methods.mim.scorer import check_supports_interest, save_scorer
from coldstart.metrics.clicks import gauc
from coldstart.rankers import load_ranker
from coldstart.training.ctr_trainer import TrainingContext
from coldstart.training.distributed import rank
from coldstart.training.launch import launch

STAGE = "train_scorer"
SOURCES = ("dataset", "ranker", ENCODER, ITEM_TABLE)


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's item table and events, and writes `<run_dir>/scorer`.

    An interrupted run continues after its last finished epoch.

    Raises:
        UserError: an earlier stage's result is missing or from another encoder, or the ranker cannot be a unit.
    """
    run_dir = recipe.run_dir.absolute()
    check_supports_interest(load_ranker(run_dir / "ranker"))
    sources = {kind: read_artifact(run_dir / kind, kind) for kind in SOURCES}
    for kind in ("dataset", ENCODER):
        if sources[ITEM_TABLE].lineage[kind] != sources[kind].fingerprint:
            raise UserError(f"the item table in {run_dir} is from another {kind}; run embed_items again")
    lineage = {kind: source.fingerprint for kind, source in sources.items()}
    interest = settings_of(recipe, Settings).interest
    checkpoints = run_dir / "checkpoints" / STAGE / digest([interest, recipe.seed, lineage])[:16]
    metrics_log = MetricsLog(run_dir / "metrics" / f"{STAGE}.jsonl")
    if not checkpoints.exists():
        metrics_log.clear()
        metrics_log.write(0, interest.epochs)
    payload = {"recipe": recipe.model_dump(mode="json"), "run_dir": str(run_dir), "lineage": lineage}
    payload["checkpoints"] = str(checkpoints)
    launch(_worker, payload, cluster=recipe.cluster, name=STAGE, storage=run_dir / "checkpoints", inputs=lineage)
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / SCORER, SCORER)


def _worker(payload: dict[str, Any]) -> None:
    recipe, run_dir = Recipe.model_validate(payload["recipe"]), Path(payload["run_dir"])
    settings = settings_of(recipe, Settings)
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    context = TrainingContext(
        seed=recipe.seed,
        gauc=gauc,
        metrics_log=MetricsLog(run_dir / "metrics" / f"{STAGE}.jsonl"),
        checkpoints=Path(payload["checkpoints"]),
    )
    ranker = check_supports_interest(load_ranker(run_dir / "ranker"))
    scorer, state = train_scorer(
        ranker, dataset.sequences, ItemTable.open(run_dir / ITEM_TABLE), settings.interest, context
    )
    if rank() == 0:
        metadata = {
            "method": settings.name,
            "width": scorer.width,
            "fusion": settings.interest.fusion,
            **state.summary,
        }
        with write_artifact(run_dir / SCORER, SCORER, payload["lineage"], metadata) as draft:
            save_scorer(scorer, draft, list(dataset.item_index), dataset.item_features)
