"""Stage 3 of MIM as a workload: trains CiUBM on Ray Train, from the run's ranker and item table."""

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.mim.config import Settings
from coldstart.methods.mim.content_stages import ENCODER
from coldstart.methods.mim.interest_training import train_scorer
from coldstart.methods.mim.scorer import check_supports_interest, save_scorer
from coldstart.rankers import load_ranker
from coldstart.training.distributed import rank
from coldstart.training.stage import TrainingStage

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
    TrainingStage.of(recipe, STAGE, [interest], lineage).run(_worker, epochs=interest.epochs)
    return read_artifact(run_dir / SCORER, SCORER)


def _worker(stage: TrainingStage) -> None:
    run_dir, settings = stage.run_dir, settings_of(stage.recipe, Settings)
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    ranker = check_supports_interest(load_ranker(run_dir / "ranker"))
    scorer, state = train_scorer(
        ranker, dataset.sequences, ItemTable.open(run_dir / ITEM_TABLE), settings.interest, stage.click_training
    )
    if rank() == 0:
        metadata = {
            "method": settings.name,
            "width": scorer.width,
            "fusion": settings.interest.fusion,
            **state.summary,
        }
        with write_artifact(run_dir / SCORER, SCORER, stage.inputs, metadata) as draft:
            save_scorer(scorer, draft, list(dataset.item_index), dataset.item_features)
