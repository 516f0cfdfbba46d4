"""The update of SaviorRec: newer events train the codebooks and the fusion MLP of the correction, and nothing else.

Items that share codes share their correction, so behavior that drifts is followed at the cost of small tables
**[P]**; encoder, semantic IDs, attentions and ranker stay as they are.
"""

from dataclasses import replace

import numpy as np

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TRAIN
from coldstart.data.sequences import Sequences
from coldstart.methods.base import ITEM_TABLE, SCORER, Champion, adapt
from coldstart.methods.saviorrec.config import Settings
from coldstart.methods.saviorrec.item_encoder import SemanticIds, load_pool, save_pool
from coldstart.methods.saviorrec.model import Catalog, SaviorScorer, load_scorer, save_scorer
from coldstart.methods.saviorrec.registered import QUANTIZER
from coldstart.methods.saviorrec.scorer_training import fit_scorer
from coldstart.modules.residual_quantizer import load_quantizer
from coldstart.training.ctr_trainer import TrainerState, TrainingContext
from coldstart.training.distributed import device, rank
from coldstart.training.stage import TrainingStage

STAGE = "update"
USED_BEFORE = -1
"""Split code of events that the champion was trained on: they are history, and no targets."""


def run(recipe: Recipe, champion: Champion) -> Artifact:
    """Trains the champion's correction on newer events and writes `<run_dir>/scorer`.

    Args:
        recipe: Of the update, whose run directory has the new dataset and the champion's other parts.
        champion: The scorer to start from.

    Raises:
        UserError: the champion has no correction.
    """
    run_dir, settings = recipe.run_dir.absolute(), settings_of(recipe, Settings)
    if load_scorer(champion.scorer.path, run_dir / "ranker").mba is None:
        raise UserError("the champion was trained with method.rank.ablate.without_mba, so it has nothing to update")
    lineage = {kind: read_artifact(run_dir / kind, kind).fingerprint for kind in champion.scorer.lineage}
    options = {
        "champion": champion.scorer.path.absolute(),
        "since": champion.last_event_at,
        "continues": list(champion.datasets),
    }
    stage = TrainingStage.of(recipe, STAGE, [settings.rank, champion.scorer.fingerprint], lineage, **options)
    stage.run(_worker, epochs=settings.rank.epochs)
    return read_artifact(run_dir / SCORER, SCORER)


def _worker(stage: TrainingStage) -> None:
    run_dir, path = stage.run_dir, stage.options["champion"]
    settings = settings_of(stage.recipe, Settings)
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    scorer, pool = load_scorer(path, run_dir / "ranker"), load_pool(path)
    items = adapt(SemanticIds(load_quantizer(run_dir / QUANTIZER), pool).eval(), ItemTable.open(run_dir / ITEM_TABLE))
    state = train_correction(scorer, dataset.sequences, items, stage.options["since"], settings, stage.click_training)
    if rank() == 0:
        metadata = {
            "method": settings.name,
            "mode": "frozen" if scorer.frozen else "joint",
            "width": scorer.width,
            "levels": len(scorer.sizes),
            "continues": stage.options["continues"],
            **state.summary,
        }
        with write_artifact(run_dir / SCORER, SCORER, stage.inputs, metadata) as draft:
            save_scorer(scorer.cpu(), draft, Catalog(list(dataset.item_index), dataset.item_features))
            if pool is not None:
                save_pool(pool, draft)


def train_correction(
    scorer: SaviorScorer,
    sequences: Sequences,
    items: ItemTable,
    since: int,
    settings: Settings,
    context: TrainingContext,
) -> TrainerState:
    """Trains codebooks and fusion MLP on the train events after a time, with early stopping. Call it on all ranks.

    Args:
        scorer: Trained in place; in eval mode afterwards, with the weights of the best epoch.
        sequences: Events of all users; older ones are in the histories.
        items: Content vectors [V, k] and codes [V, Lq].
        since: Unix seconds.
        settings: The recipe section `method`.
        context: Seed, metric, metrics log and checkpoints.
    """
    assert scorer.mba is not None
    older = (sequences.split == TRAIN) & (sequences.timestamp <= since)
    newer = replace(sequences, split=np.where(older, USED_BEFORE, sequences.split).astype(sequences.split.dtype))
    scorer.to(device()).requires_grad_(False)
    scorer.mba.requires_grad_(True)
    state = fit_scorer(scorer, newer, items, settings.rank, context)
    scorer.eval()
    return state
